"""Markdown of a model as HTML: what it looks like, that nothing of the text becomes markup, and that nothing takes long."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.serve.http import markdown_html
from nanochat.serve.http.markdown_html import MOST_CHARACTERS, render

MOST_SECONDS = 2.0  # of one CPU, which may be busy: without its bounds the renderer takes minutes, with them 0.14 s
LENGTH = 100_000
TAGS = set("a blockquote br code div em h3 h4 h5 h6 hr input li ol p pre s span strong table tbody td th thead tr ul".split())
ATTRIBUTES = {"class", "href", "target", "rel", "tabindex", "role", "aria-label", "start", "type", "disabled", "checked"}


class _Elements(HTMLParser):
    """The elements of a text, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def check_harmless(html: str) -> None:
    for tag, attributes in _Elements(html).found:
        assert tag in TAGS and set(attributes) <= ATTRIBUTES
        if "href" in attributes:
            assert tag == "a" and str(attributes["href"]).lower().startswith(("http://", "https://", "mailto:"))
            assert attributes["rel"] == "noopener noreferrer" and attributes["target"] == "_blank"


def repeated(piece: str, length: int = LENGTH) -> str:
    return (piece * (length // len(piece) + 1))[:length]


def test_markdown_becomes_html() -> None:
    html = render("Some **bold**, *slanted*, ~~old~~ and `code < 1`.\nnext\n\n- [x] one\n- [ ] two\n  1. deep\n\n> said\n\n---").html
    for part in ("<strong>bold</strong>", "<em>slanted</em>", "<s>old</s>", "<code>code &lt; 1</code>.<br />", "<hr />", "<ol>"):
        assert part in html
    assert html.count('type="checkbox"') == html.count("disabled") == 2 and html.count("checked") == 1
    assert "<blockquote>\n<p>said</p>" in html


def test_tables_scroll_and_align_without_styles() -> None:
    html = render("|a|b|c|\n|:-|:-:|-:|\n|1|2|*3*|").html
    assert html.startswith('<div class="table" role="group" aria-label="Table" tabindex="0"><table>')
    assert '<th class="center">b</th>' in html and '<td class="right"><em>3</em></td>' in html and "style" not in html


@pytest.mark.parametrize(("text", "tags"), [("#### a\n# b\n## c\n#### d\n# e", "h3 h3 h4 h5 h3"), ("# a\n\nb\n=\n\n###### c", "h3 h3 h4")])
def test_headings_lie_one_below_the_other(text: str, tags: str) -> None:
    assert [tag for tag, _ in _Elements(render(text).html).found if tag[1:].isdigit()] == tags.split()


def test_code_is_highlighted_by_class() -> None:
    html = render(
        "```python\ndef f(x): return '<b>'  # why\n```\n\n~~~\na <b>\n~~~\n\n    indented\n\n```nonsense x\n1\n```\n```py\nopen"
    ).html
    assert '<span class="k">def</span>' in html and '<span class="c1"># why</span>' in html and "<b>" not in html
    assert [part.partition("<")[0] for part in html.split('<div class="code-head"><span>')[1:]] == [
        "python",
        "code",
        "code",
        "nonsense",
        "py",
    ]
    assert "a &lt;b&gt;</code>" in html and "<code>indented</code>" in html and "<code>1</code>" in html


def test_links_lead_to_the_web_only_and_images_stay_words() -> None:
    text = (
        "https://a.b/c. <https://d.e> [f](http://g.h) <i@j.k> README.md [x](javascript:alert(1)) [y](data:text/html,a) [z](/v1/sessions) "
        "[w](//evil.example) ![an *image*](https://evil.example/i.png) <script>alert(1)</script> <img src=x onerror=alert(1)>"
    )
    html = render(text).html
    check_harmless(html)
    assert [attributes["href"] for tag, attributes in _Elements(html).found if tag == "a"] == [
        "https://a.b/c", "https://d.e", "http://g.h", "mailto:i@j.k",
    ]  # fmt: skip
    assert '<span class="picture">Image: an image</span>' in html


@settings(deadline=None)
@given(st.text(alphabet="ab <>&\"'`*_~[]()!#-+.:/\\|\n\t0é😀\0", max_size=80) | st.text(max_size=60))
def test_no_text_becomes_markup(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markdown_html, "PARSE_SECONDS", MOST_SECONDS)  # a garbage collection alone may take longer than the budget
        rendered = render(text)
    check_harmless(rendered.html)
    assert rendered.formatted == len(text.encode("utf-16-le")) // 2


def test_a_long_text_is_formatted_up_to_a_line() -> None:
    line = "Some words of a long reply, of which **few** are bold. 😀\n"  # the last one is two of JavaScript's characters
    rendered = render(line * 1000)
    lines = MOST_CHARACTERS // len(line)
    assert rendered.formatted == lines * (len(line) + 1) and rendered.html.count("<strong>") == lines
    assert render("x" * LENGTH).formatted == MOST_CHARACTERS


def test_what_is_nested_too_deeply_stays_text() -> None:
    assert render(">" * 9 + " a").html.count("<blockquote>") == 9
    assert render(">" * 4500 + " a") == render("\n".join("  " * i + "- a" for i in range(40))) != render("a")
    assert render(">" * 4500).formatted == 0


HOSTILE = {
    "quotes": ">" * 4500 + " x",
    "lines of quotes": repeated("> " * 50 + "\n"),
    "growing quotes": "".join(">" * i + " a\n" for i in range(440))[:LENGTH],
    "lazy quotes": repeated("> " * 15 + "a\n" + "b\n" * 9000),
    "lazy lists": repeated("- " * 9 + "a\n" + "b\n" * 9000),
    "ticks": "`" * LENGTH,
    "growing ticks": "".join("`" * i + " " for i in range(1, 445)),
    "pairs of ticks": repeated("``a`"),
    "nested lists": "".join("  " * i + "- a\n" for i in range(310))[:LENGTH],
    "lists": repeated("- a\n"),
    "lists in a line": repeated("- "),
    "tasks": repeated("- [ ] a\n"),
    "brackets": "[" * LENGTH,
    "brackets around links": "[" * 50_000 + "](a)" * 12_500,
    "images": repeated("!["),
    "titles": repeated('[a](b "'),
    "deep emphasis": repeated("*a **b "),
    "mixed emphasis": repeated("**a_ *b~~ "),
    "alternating": repeated("*_"),
    "table": "|a|b|\n|-|-|\n" + repeated("|a|b|\n"),
    "table of empty cells": "|a" * 800 + "|\n" + "|-" * 800 + "|\n" + "a\n" * 9000,
    "wide table": repeated("|a") + "\n" + repeated("|-"),
    "angles": repeated("<http://a"),
    "addresses": repeated("http://a.b "),
    "long address": "http://" + repeated("a."),
    "dots": "http://a.b/" + "(" * LENGTH,
    "entities": repeated("&amp;&"),
    "references": repeated("[a]: <b> '"),
    "uses of a reference": "[a]: b\n\n" + repeated("[a] "),
    "headings": repeated("# a\n"),
    "underlined": repeated("a\n=\n"),
    "fences": repeated("```\na\n"),
    "tabs": repeated(">\t"),
    "lines": "\n" * LENGTH,
    "zeros": "\0" * LENGTH,
    "js strings": "```js\n" + repeated('"a\\'),
    "ts names": "```ts\n" + repeated("a."),
    "tsx numbers": "```tsx\n" + repeated("1."),
    "html entities": "```html\n" + repeated("&"),
    "html comments": "```html\n" + repeated("<!--"),
    "css strings": "```css\n" + repeated('"a\\'),
    "many fences": repeated('```ts\n"a\\a.1.\n```\n'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_takes_no_time(name: str) -> None:
    began = time.thread_time()
    rendered = render(HOSTILE[name])
    assert time.thread_time() - began <= MOST_SECONDS
    check_harmless(rendered.html)
