"""The report as one HTML file, in a real browser: nothing in it runs or loads, and it is readable."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from nanochat import markdown
from nanochat.report.compose import generate
from nanochat.report.html import to_html
from nanochat.report.sections import section
from tests.helpers.headless import browser, needs_chromium  # noqa: F401

EVIL = '</pre></code><script>window.evil = 1</script><img src="http://127.0.0.1:9/x.png" onerror="window.evil = 2">'
ATTACKS = (
    EVIL,
    f"```\n{EVIL}\n```",
    "![a](http://127.0.0.1:9/b.png) [c](javascript:window.evil=3) <http://127.0.0.1:9/>",
    "a | b\n--- | ---\n<svg onload=window.evil=4> |",
    "\u202e<iframe srcdoc='<script>parent.evil=5</script>'></iframe>\x00",
    "<style>body { display: none }</style><base href='http://127.0.0.1:9/'>",
)


def png(width: int, height: int) -> bytes:
    """A real one, white."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[..., Page]:  # noqa: F811
    """Opens HTML as a file; what it loads, says on the console and throws is in `page.seen`."""

    def open_page(html: str, **settings: object) -> Page:
        path = tmp_path / "report.html"
        path.write_text(html, encoding="utf-8")
        page = browser.new_context(**settings).new_page()
        page.seen = []
        page.on("request", lambda request: page.seen.append(request.url))
        page.on("console", lambda message: page.seen.append(message.text))
        page.on("pageerror", lambda error: page.seen.append(str(error)))
        page.goto(path.as_uri())
        page.seen = [seen for seen in page.seen if seen != path.as_uri() and not seen.startswith("data:image/png")]
        return page

    return open_page


@needs_chromium
def test_what_models_write_is_shown_and_does_nothing(base: Path, tmp_path: Path, show: Callable[..., Page]) -> None:
    samples = [{"prompt": f"{number} {text}", "text": text} for number, text in enumerate(ATTACKS)]
    rows = [{"task": text, "problems": 3, "accuracy": 0.5, "low": 0.1, "high": 0.9, "chance": 0.0} for text in ATTACKS]
    section("base_training", {"model tag": ATTACKS[0], "note": ATTACKS[2], "config": {text: text for text in ATTACKS}})
    section("base_evaluation", {"samples": samples, "layouts": [{"title": ATTACKS[3], "text": ATTACKS[4]}]})
    section("chat_evaluation", {"tasks": rows, "samples": samples})
    (base / "stages").mkdir()
    stamp = {"stage": "base_train", "command": f"python {EVIL}", "seconds": 3, "finished": "2026-11-20T06:30:00Z"}
    (base / "stages" / "base_train.json").write_text(json.dumps(stamp))
    run = base / "base_runs" / "d4"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    (run / "alerts.jsonl").write_text(json.dumps({"step": 1, "metric": EVIL, "value": 1, "band": EVIL, "message": ATTACKS[2]}) + "\n")
    section("mid_training", {"metrics_file": str(run / "metrics.jsonl")})
    generate(tmp_path / "out" / "report.md")
    page = show((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert page.seen == [] and page.evaluate("window.evil") is None
    assert page.locator("script, iframe, svg, object, embed, base, link, style:not(head style), img:not([src^='data:'])").count() == 0
    assert page.locator("a:not([href^='#'])").count() == 0
    assert page.get_by_text("window.evil = 1").count() >= 4 and page.locator("h1").is_visible()
    assert page.get_by_text("parent.evil=5").count() >= 2


@needs_chromium
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_wider_than_the_screen_but_scrolls(show: Callable[..., Page], width: int) -> None:
    wide = markdown.table([f"column {i}" for i in range(30)], [["value" * 4] * 30])
    long = markdown.fenced("word" * 400)
    drawing = markdown.fenced("▓" * 300, "layout")
    text = f"# Title\n\nWritten.\n\n## First\n\n{wide}\n\n### Deeper\n\n{long}\n\n{drawing}\n\n## Second\n\n![A figure](f.png)\n"
    page = show(to_html(text, {"f.png": png(1456, 40)}), viewport={"width": width, "height": 800})
    assert page.seen == [] and page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(
        "(e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX == 'auto')(document.querySelector('.table'))"
    )
    fences = page.locator("pre")
    assert fences.nth(0).evaluate("e => e.scrollWidth == e.clientWidth"), "text is wrapped"
    assert fences.nth(1).evaluate("e => e.scrollWidth > e.clientWidth"), "a drawing is not"
    image = page.locator("figure img").bounding_box()
    assert image is not None and image["width"] <= 1456 * 96 / 140 and image["x"] + image["width"] <= width
    assert page.locator("nav a").all_inner_texts() == ["First", "Deeper", "Second"] if width > 1000 else ["First", "Second"]
    page.get_by_role("navigation").get_by_text("Second").click()
    assert page.url.endswith(page.locator("h2").nth(1).get_attribute("id") or "?")


@needs_chromium
def test_it_is_dark_where_the_system_is_and_light_on_paper(show: Callable[..., Page]) -> None:
    html = to_html("# Title\n\n## First\n\ntext\n", {})

    def brightness(page: Page) -> tuple[int, int]:
        return tuple(
            page.evaluate(f"Number(getComputedStyle(document.body).{what}.match(/\\d+/)[0])") for what in ("backgroundColor", "color")
        )

    light, dark = (brightness(show(html, color_scheme=scheme)) for scheme in ("light", "dark"))
    assert light[0] > 200 > 100 > light[1] and dark[0] < 60 < 180 < dark[1]
    page = show(html, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert brightness(page)[0] > 200 and not page.locator("nav").is_visible()


def test_results_and_hashes_have_classes_and_a_missing_image_its_caption() -> None:
    rows = [("done", "a" * 64, 5), ("failed, exit code 3", "x", 6), ("FAILED", "x", 7), ("total", "", 18)]
    html = to_html(
        f"# T\n\n## S\n\n{markdown.table(('state', 'hash', 'n'), rows, right=(2,))}\n\n![gone \\<b\\>](gone.png)\n",
        {"other.png": png(2, 2)},
    )
    assert '<td class="good">done</td>' in html and f'<td class="hash">{"a" * 64}</td>' in html and '<td class="bad">FAILED</td>' in html
    assert '<td class="bad">failed, exit code 3</td>' in html and '<tr class="total">' in html and '<td class="right">5</td>' in html
    assert "gone &lt;b&gt;" in html and "<img" not in html
