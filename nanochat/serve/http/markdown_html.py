"""Markdown of a model as HTML: hostile input, in bounded time.

No markup of the text survives, links lead to the web or to a mail address only, and no image is loaded. What would cost too much stays
text: `Rendered.formatted` tells where the HTML ends.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

MOST_CHARACTERS = 20_000  # formatted; some hostile texts take time that grows with the square of their length
MOST_NESTING = 20  # twice the depth of a list
PARSE_SECONDS, HIGHLIGHT_SECONDS = 0.1, 0.04  # of one CPU
_TOP_HEADING = 3  # of a reply; h2 is the page's own, above each message
_SAFE_LINK = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
# Those that read in one pass; others embed templates, or read the whole text before their first token.
_LANGUAGES = frozenset(
    "bash c cpp csharp css diff docker go haskell html ini java javascript js json jsx julia kotlin lua make markdown md perl php pycon "
    "powershell py python r ruby rust scala scss sh shell sql swift tex toml ts tsx typescript xml yaml yml".split()
)
_CLASSES = {kind: name for kind, name in STANDARD_TYPES.items() if name}


@dataclass(frozen=True)
class Rendered:
    """`html` of the first `formatted` characters of a text, counted as JavaScript does, in UTF-16 units."""

    html: str
    formatted: int


class _TooCostlyError(Exception):
    pass


def render(text: str) -> Rendered:
    """The HTML of `text`, or of its beginning if it is long; of none of it if its blocks are nested too deeply or cost too much."""
    end = len(text)
    if end > MOST_CHARACTERS:
        end = text.rfind("\n", MOST_CHARACTERS // 2, MOST_CHARACTERS) + 1 or MOST_CHARACTERS
    env: dict[str, Any] = {"deadline": time.thread_time() + PARSE_SECONDS}
    try:
        tokens = _PARSER.parse(text[:end], env)
    except _TooCostlyError:
        return Rendered("", 0)
    if any(token.nesting == 1 and token.level + 1 >= MOST_NESTING for token in tokens):  # the parser leaves out what is deeper
        return Rendered("", 0)
    _adapt(tokens)
    env["highlight"] = HIGHLIGHT_SECONDS
    return Rendered(_PARSER.renderer.render(tokens, _PARSER.options, env), len(text[:end].encode("utf-16-le", "surrogatepass")) // 2)


def _adapt(tokens: Sequence[Token]) -> None:
    """Headings one below the other, below the page's own, and classes instead of styles, which the page's policy forbids."""
    last = _TOP_HEADING - 1
    for token in tokens:
        if token.type == "heading_open":
            last = min(int(token.tag[1:]) + _TOP_HEADING - 1, last + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{last}"
        elif token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", None)):
            token.attrs["class"] = str(style).removeprefix("text-align:")


def _check_time(state: Any, *_: Any) -> bool:
    """A rule that never applies, of blocks and of lines, and ends the parser when its time is over."""
    if time.thread_time() > state.env["deadline"]:
        raise _TooCostlyError
    return False


@functools.lru_cache(len(_LANGUAGES))
def _lexer(language: str) -> Lexer:
    return get_lexer_by_name(language)


def _highlighted(code: str, lexer: Lexer, deadline: float) -> Iterator[str]:
    """Spans of the tokens of `code`; the rest of it as text when the time is over."""
    shown = 0
    for position, kind, value in lexer.get_tokens_unprocessed(code):
        while kind not in _CLASSES and kind.parent is not None:
            kind = kind.parent
        name = _CLASSES.get(kind)
        yield f'<span class="{name}">{escapeHtml(value)}</span>' if name else escapeHtml(value)
        shown = position + len(value)
        if time.thread_time() > deadline:
            break
    yield escapeHtml(code[shown:])


class _Renderer(RendererHTML):
    """Elements that the page styles."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Code with its language as a title."""
        language = (tokens[idx].info.split() or [""])[0][:30]
        code = tokens[idx].content.removesuffix("\n")
        content = escapeHtml(code)
        if language.lower() in _LANGUAGES and env["highlight"] > 0:
            try:
                lexer = _lexer(language.lower())
            except ClassNotFound:  # of another version of Pygments
                pass
            else:
                began = time.thread_time()
                content = "".join(_highlighted(code, lexer, began + env["highlight"]))
                env["highlight"] -= time.thread_time() - began
        head = f'<div class="code-head"><span>{escapeHtml(language or "code")}</span></div>'
        return f'<div class="code">{head}<pre tabindex="0"><code>{content}</code></pre></div>\n'

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Indented code."""
        return self.fence(tokens, idx, options, env)

    def list_item_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """An item, with a box that says whether it is done if it is a task."""
        done = (tokens[idx].meta or {}).get("checked")
        if done is None:
            return "<li>"
        return f'<li class="task"><input type="checkbox" disabled aria-label="{"done" if done else "to do"}"{" checked" if done else ""}> '

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The words that stand for an image."""
        words = self.renderInlineAsText(tokens[idx].children, options, env)
        return f'<span class="picture">Image: {escapeHtml(words or "untitled")}</span>'

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A link that opens beside the page and tells nothing of it."""
        href = escapeHtml(str(tokens[idx].attrs["href"]))
        return f'<a href="{href}" target="_blank" rel="noopener noreferrer">'

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A table that scrolls by itself, with the keyboard as well."""
        return '<div class="table" role="group" aria-label="Table" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The end of a table."""
        return "</table></div>\n"


def _new_parser() -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark",
        {"html": False, "breaks": True, "linkify": True, "tasklists": True, "maxNesting": MOST_NESTING},
        renderer_cls=_Renderer,
    )
    parser.enable(["table", "strikethrough", "linkify"])
    parser.linkify.set({"fuzzy_link": False, "fuzzy_email": False})  # a file name is no address
    parser.validateLink = lambda url: _SAFE_LINK.match(url) is not None  # type: ignore[method-assign]

    # Asked first wherever the parser looks for something, also for the end of a block.
    chains = {"alt": ["paragraph", "reference", "blockquote", "list", "table"]}
    parser.block.ruler.before("table", "budget", _check_time, chains)
    parser.inline.ruler.before("text", "budget", _check_time)
    return parser


_PARSER = _new_parser()
