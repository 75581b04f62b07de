"""README and vault as pages: links resolve, every note is reachable, diagrams can be drawn."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.vault import HOME, README, VAULT, Block, Page, notes, pages, read

README_LINES = 200
NOTE_LINES = 150
SUMMARY_CHARACTERS = 160
# Types of Mermaid diagrams in use, with the pattern of a line of their body.
ARROW = r"(-->|---|-\.->|==>)"
NODE = r'\w+(\[\(?"[^"]+"\)?\]|\(\["[^"]+"\]\)|\{"[^"]+"\})?'
DIAGRAMS = {
    r"flowchart (TB|LR)": rf'({NODE}( {ARROW}(\|"[^"]+"\|)? {NODE})*|subgraph \w+\["[^"]+"\]|end|direction (TB|LR))',
    r"sequenceDiagram": r"(participant \w+ as [\w ]+|\w+-?->>\w+: [^:;#]+|Note over \w+: [^:;#]+|loop [^:;#]+|end)",
}


def broken_links(page: Page) -> list[str]:
    """Links of a page to a file or heading that does not exist."""
    broken = []
    for link in page.links:
        if not link.file.exists():
            broken.append(f"{page.name}: {link.text} leads to no file")
        elif link.heading and not read(link.file).has_heading(link.heading):
            broken.append(f"{page.name}: {link.text} leads to no heading")
    return broken


def unreachable(found: list[Page], start: Path) -> set[str]:
    """Notes that no chain of links from `start` reaches."""
    by_path = {page.path: page for page in found}
    seen, waiting = {start}, [start]
    while waiting:
        for link in by_path[waiting.pop()].links:
            if link.file in by_path and link.file not in seen:
                seen.add(link.file)
                waiting.append(link.file)
    return {page.name for page in found if page.path not in seen}


def drawing_faults(block: Block) -> list[str]:
    """Lines of a Mermaid block outside the plain forms that are known to be drawn."""
    first, *lines = [line.strip() for line in block.text.splitlines() if line.strip()]
    body = next((pattern for kind, pattern in DIAGRAMS.items() if re.fullmatch(kind, first)), None)
    if body is None:
        return [first]
    faults = [line for line in lines if not re.fullmatch(body, line)]
    opened = sum(line.startswith(("subgraph ", "loop ")) for line in lines)
    return faults if opened == lines.count("end") else [*faults, "end"]


def test_links_lead_somewhere() -> None:
    assert not [broken for page in pages() for broken in broken_links(page)]


def test_every_note_is_reached_from_home() -> None:
    assert not unreachable(notes(), HOME)
    assert HOME in {link.file for link in read(README).links}


def test_notes_have_names_of_their_own() -> None:
    """File names of notes are unique, because a link in double brackets has no folder."""
    twice = [name for name, count in Counter(page.path.name for page in notes()).items() if count > 1]
    assert not twice
    assert not [page.name for page in notes() if page.path.parent != VAULT]


def test_notes_say_what_they_are() -> None:
    for page in notes():
        assert page.frontmatter.keys() == {"tags", "summary"}, page.name
        assert re.fullmatch(r"\[[a-z]+(, [a-z]+)*\]", page.frontmatter["tags"]), page.name
        assert page.frontmatter["summary"].endswith(".") and len(page.frontmatter["summary"]) <= SUMMARY_CHARACTERS, page.name
        assert f"# {'MegaContext' if page.path == HOME else page.path.stem}\n" in page.text, page.name


def test_pages_are_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES
    assert not [page.name for page in notes() if len(page.text.splitlines()) > NOTE_LINES]


def test_tables_are_whole() -> None:
    """Every row of a table has as many cells as its header: Markdown would silently drop or shift the others."""
    for page in pages():
        rows: list[int] = []
        for line in [*page.prose.splitlines(), ""]:
            if line.startswith("|"):
                rows.append(len(re.findall(r"(?<!\\)\|", line)))
            else:
                assert len(set(rows)) <= 1, f"{page.name}: a table before {line!r} has rows of {sorted(set(rows))} bars"
                rows = []


def test_code_in_the_text_ends_where_it_begins() -> None:
    """Inline code ends on its line: the other tests look at the names in backticks."""
    assert not [(page.name, line) for page in pages() for line in page.prose.splitlines() if line.count("`") % 2]


def test_diagrams_can_be_drawn() -> None:
    diagrams = [(page.name, block) for page in notes() for block in page.blocks if block.info == "mermaid"]
    assert len(diagrams) >= 4
    assert not [(name, fault) for name, block in diagrams for fault in drawing_faults(block)]


def page_of(text: str) -> Page:
    return Page(VAULT / "Home.md", text)


@pytest.mark.parametrize(
    "text", ["[[No such note]]", "[[Glossary#No such heading]]", "[a](none.md)", "[a](<no file.md>)", "[a](../README.md#no-such-heading)"]
)
def test_a_broken_link_is_found(text: str) -> None:
    assert broken_links(page_of(text))


@pytest.mark.parametrize(
    "text",
    [
        "[[Glossary]]",
        "[[Glossary#Memory]]",
        "[[Glossary#Memory|x]]",
        "[a](../README.md#what-to-expect)",
        "`[[No such note]]`",
        "[a](https://x.y)",
    ],
)
def test_a_good_link_is_none(text: str) -> None:
    assert not broken_links(page_of(text))


def test_a_note_that_nobody_links_is_found() -> None:
    lonely = Page(VAULT / "Lonely.md", "# Lonely\n\n[[Home]]\n")
    assert unreachable([*notes(), lonely], HOME) == {"obsidian/Lonely.md"}


@pytest.mark.parametrize(
    "text",
    [
        'flowcharts TB\n    A["a"] --> B["b"]',
        'flowchart TB\n    A["a" --> B["b"]',
        "flowchart TB\n    A[a (b)] --> B",
        'flowchart TB\n    subgraph S["s"]\n    A --> B',
        "sequenceDiagram\n    A->B: x",
        "sequenceDiagram\n    A->>B: x; y",
    ],
)
def test_a_diagram_that_may_not_be_drawn_is_found(text: str) -> None:
    assert drawing_faults(Block("mermaid", text))
