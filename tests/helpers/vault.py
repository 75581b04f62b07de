"""The documentation as data: README.md and the notes of obsidian/, their headings, links, names and blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from nanochat.common import ROOT

VAULT = ROOT / "obsidian"
HOME = VAULT / "Home.md"
README = ROOT / "README.md"

_FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
_WIKI = re.compile(r"\[\[([^\]|#]*)(?:#([^\]|]*))?(?:\|[^\]]*)?\]\]")
_LINK = re.compile(r"\]\((?:<([^>]+)>|([^)\s]+))\)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: the words after its opening backticks, and its text."""

    info: str
    text: str


class Link(NamedTuple):
    """A link: its text, its file, and a heading of that file or nothing."""

    text: str
    file: Path
    heading: str


@dataclass(frozen=True)
class Page:
    """A page of the documentation."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Name for messages."""
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name

    @cached_property
    def blocks(self) -> list[Block]:
        """Fenced blocks, in order."""
        return [Block(match[2].strip(), match[3]) for match in _FENCE.finditer(self.text)]

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def headings(self) -> set[str]:
        """Texts of the headings."""
        return set(_HEADING.findall(self.prose))

    def has_heading(self, heading: str) -> bool:
        """True if the page has the heading, given as written or, as in Markdown links, in lower case with hyphens."""
        return any(heading in (text, re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")) for text in self.headings)

    @cached_property
    def code(self) -> list[str]:
        """Inline code of the prose."""
        return _CODE.findall(self.prose)

    @cached_property
    def frontmatter(self) -> dict[str, str]:
        """The keys of the lines between the first two `---`."""
        match = re.match(r"---\n(.*?)\n---\n", self.text, re.DOTALL)
        return dict(line.split(": ", 1) for line in match[1].splitlines()) if match else {}

    @cached_property
    def links(self) -> list[Link]:
        """Links to files of the repository: `[[Note#Heading]]` and relative Markdown links."""
        prose = _CODE.sub("", self.prose)
        found = [Link(m[0], VAULT / f"{m[1]}.md" if m[1] else self.path, m[2] or "") for m in _WIKI.finditer(prose)]
        for match in _LINK.finditer(prose):
            address, _, heading = unquote(match[1] or match[2]).partition("#")
            if not re.match(r"[a-z]+:", address):
                found.append(Link(match[0], (self.path.parent / address).resolve() if address else self.path, heading))
        return found


def read(path: Path) -> Page:
    """The page at `path`."""
    return Page(path, path.read_text(encoding="utf-8"))


def notes() -> list[Page]:
    """The notes of the vault."""
    return [read(path) for path in sorted(VAULT.rglob("*.md"))]


def pages() -> list[Page]:
    """README and notes."""
    return [read(README), *notes()]
