"""HTML form of a report: one file that loads and runs nothing, for screens of any size, dark mode and paper."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from nanochat.report.figures import DPI
from nanochat.report.page import LAYOUT

# A second line of defence: the browser may use nothing but the style and the images in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = Path(__file__).with_name("report.css")
_CSS_DPI = 96
_WORD = 40  # characters of a word in a cell that is not broken
_HASH = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")
_CELLS = {
    "ok": "good",
    "done": "good",
    "met": "good",
    "FAILED": "bad",
    "failed": "bad",
    "missed": "bad",
    "stopped": "bad",
    "missing": "unsure",
}


def to_html(text: str, figures: Mapping[str, bytes]) -> str:
    """Renders Markdown as a complete HTML document. Images not in `figures` become their caption; HTML in the text is escaped."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    contents = _number_headings(tokens)
    _mark_tables(tokens)
    _mark_fences(tokens)
    for token in tokens:
        if token.type == "inline":
            _embed(token, figures)
    body = parser.renderer.render(tokens, parser.options, {})
    # A table wider than the page scrolls; the tabindex makes that possible with the keyboard.
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>').replace("</table>", "</table></div>")
    body = re.sub(r"<p>(<figure>.*?</figure>)</p>", r"\1", body)
    head, opening, body = body.partition("<h2")
    title = html.escape(next((heading for level, _, heading in contents if level == 1), "Report"))
    entries = "\n".join(
        f'<li{" class=sub" * (level == 3)}><a href="#{name}">{html.escape(heading)}</a></li>'
        for level, name, heading in contents
        if level in (2, 3)
    )
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f'<body>\n<div class="page">\n<header>\n{head}</header>\n'
        f'<nav aria-label="Contents">\n<ul>\n{entries}\n</ul>\n</nav>\n'
        f"<main>\n{opening}{body}</main>\n</div>\n</body>\n</html>\n"
    )


def _number_headings(tokens: Sequence[Token]) -> list[tuple[int, str, str]]:
    """Gives every heading an id; returns (level, id, text) of each."""
    found = []
    for opening, inline in zip(tokens, tokens[1:], strict=False):
        if opening.type == "heading_open":
            name = f"s{len(found)}"
            opening.attrSet("id", name)
            found.append((int(opening.tag[1:]), name, _text(inline)))
    return found


def _mark_tables(tokens: Sequence[Token]) -> None:
    """Sets classes in place of styles: right-aligned columns, kinds of cells, and the row of totals."""
    row = before = None
    for token, inline in zip(tokens, tokens[1:], strict=False):
        if token.type == "tr_open":
            row = token
        elif token.type in ("td_open", "th_open"):
            text, right = _text(inline), "right" in str(token.attrs.pop("style", ""))
            if kind := "right" if right else _kind(text) if token.type == "td_open" else None:
                token.attrSet("class", kind)
            if before is row and row is not None and text == "total":
                row.attrSet("class", "total")
        before = token


def _kind(text: str) -> str | None:
    """CSS class of a cell that holds `text`: a state, a hash, or a word that must not be broken."""
    if state := _CELLS.get(text.partition(",")[0]):
        return state
    if _HASH.fullmatch(text):
        return "hash" if len(text) > _WORD else "hash word"
    return "word" if len(text) <= _WORD and " " not in text else None


def _mark_fences(tokens: Sequence[Token]) -> None:
    """Wraps long lines of text and commands, but not of drawings."""
    for token in tokens:
        if token.type == "fence" and token.info != LAYOUT:
            token.attrJoin("class", "wrap")


def _embed(token: Token, figures: Mapping[str, bytes]) -> None:
    """Replaces images by figures with the PNG inline."""
    for number, child in enumerate(token.children or ()):
        if child.type == "image":
            caption, png = html.escape(_text(child)), figures.get(str(child.attrGet("src")))
            shown = Token("html_inline", "", 0)
            shown.content = caption
            if png is not None:
                source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
                width = int.from_bytes(png[16:20], "big") * _CSS_DPI // DPI
                image = f'<img src="{source}" alt="{caption}" width="{width}">'
                shown.content = f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
            token.children[number] = shown


def _text(token: Token) -> str:
    """Visible text of a token."""
    return "".join(child.content for child in token.children or ())
