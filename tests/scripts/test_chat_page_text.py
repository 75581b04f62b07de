"""How the page shows what a model writes: formatted by the server a few times a second, plain where that fails, never as markup."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from bench.tiny_chat import Server, running, save_chat_model
from bench.warm_start import WarmStart
from tests.helpers.headless import needs_chromium
from tests.scripts.test_chat_page import open_page, put, reloaded, reply_grows, say, stop

pytestmark = needs_chromium
LISTS = "\n".join("  " * i + "- a" for i in range(300))
HOSTILE = [">" * 4500, "`" * 20_000 + " a`" * 10_000, LISTS, "[" * 100_000, "*a **b " * 14_000, "words " * 16_000]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm: WarmStart) -> Iterator[Server]:
    base: Path = tmp_path_factory.mktemp("text")
    save_chat_model(base, "alphabet", context_tokens=100_000)
    with running(warm, base, "-g=alphabet", "--max-reply-tokens=90000", "--max-tokens=90000", "-t=0") as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    yield from open_page(browser, server.url)


def put_replies(page: Page, *replies: str) -> Locator:
    """Has the page show a conversation with these replies; returns their bodies."""
    put(page, [each for reply in replies for each in ({"role": "user", "content": "<i>hi</i>"}, {"role": "assistant", "content": reply})])
    return page.locator("article.assistant .body")


def test_what_the_model_writes_is_text(page: Page) -> None:
    """Markdown becomes elements, markup and scripts never do."""
    text = (
        "# Title\n\nSome **bold**, *slanted* and `code < 1`.\n\n- one\n- [x] two\n  1. deep\n\n> said\n\n```python\nprint('<b>')\n```\n\n"
        "|a|b|\n|-|-:|\n|1|2|\n\n<img src=x onerror=alert(1)> <script>alert(1)</script> [bad](javascript:alert(1)) "
        "![](https://example.org/i.png) [good](https://example.org/a)\n\n```\nopen"
    )
    page.add_init_script("window.alert = () => { throw new Error('a script of the model ran') }")
    reloaded(page)
    body = put_replies(page, text)
    expect(page.locator("article.user .body")).to_have_text("<i>hi</i>")
    expect(body.locator("h3")).to_have_text("Title")
    expect(body.locator("strong")).to_have_text("bold")
    expect(body.locator("p code")).to_have_text("code < 1")
    expect(body.locator("ul > li")).to_have_count(2)
    expect(body.locator("ul ol > li")).to_have_text("deep")
    expect(body.locator("input:checked")).to_have_count(1)
    expect(body.locator("blockquote")).to_have_text("said")
    expect(body.locator("pre")).to_have_text(["print('<b>')", "open"])
    expect(body.locator("td").last).to_have_css("text-align", "right")
    assert body.locator("pre .nb").evaluate("e => getComputedStyle(e).color") != body.evaluate("e => getComputedStyle(e).color")
    expect(body.locator("img, script, b, i")).to_have_count(0)
    assert [link.get_attribute("href") for link in body.locator("a").all()] == ["https://example.org/a"]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    body.locator(".code").first.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "print('<b>')"


def test_a_conversation_with_hostile_replies_opens_also_one_of_before(page: Page) -> None:
    said = [{"role": "user", "parts": [{"type": "text", "text": "Go"}]}]
    old = [part for text in HOSTILE for part in (*said, {"role": "assistant", "parts": [{"type": "text", "text": text}]})]
    old += [*said, {"role": "assistant", "parts": [{"type": "text", "text": "**well**"}]}]
    page.evaluate("old => localStorage.setItem('chat', JSON.stringify(old))", old)
    began = time.monotonic()
    reloaded(page)
    bodies = page.locator("article.assistant .body")
    expect(bodies).to_have_count(len(HOSTILE) + 1)
    expect(bodies.last.locator("strong")).to_have_text("well")
    expect(bodies.first).to_contain_text(">" * 4500)
    expect(bodies.first).to_contain_text("Shown as plain text: it is too long or too deeply nested to be formatted.")
    expect(bodies.nth(5)).to_contain_text("Shown as plain text from here on")
    assert time.monotonic() - began < 20
    assert page.evaluate("localStorage.getItem('chat')") is None
    reloaded(page)  # it has moved to where conversations are kept now
    expect(bodies.last.locator("strong")).to_have_text("well")
    page.get_by_role("button", name="New chat").click()
    expect(bodies).to_have_count(0)


def test_texts_are_formatted_one_at_a_time_and_a_few_in_a_second(page: Page) -> None:
    begun: list[float] = []
    flying: list[int] = [0, 0]  # now, at most

    def begin(request: Request) -> None:
        if request.url.endswith("/v1/render"):
            begun.append(time.monotonic())
            flying[0] += 1
            flying[1] = max(flying)

    def end(request: Request) -> None:
        flying[0] -= request.url.endswith("/v1/render")

    page.on("request", begin)
    page.on("requestfinished", end)
    page.on("requestfailed", end)
    say(page, "go")
    reply_grows(page)
    page.wait_for_timeout(2000)
    stop(page)
    expect(page.locator("article.assistant .text > p").first).not_to_have_class("unformatted")
    seconds = begun[-1] - begun[0]
    assert 3 <= len(begun) <= 5 * seconds + 3 and flying[1] == 1


def test_without_the_server_texts_are_plain_and_one_bad_answer_spoils_one_message(page: Page) -> None:
    def answer(route: Route) -> None:
        text = route.request.post_data_json["text"]
        if text == "**one**":
            route.fulfill(status=500, body="no")
        elif text == "**two**":
            route.fulfill(status=200, body="not JSON", content_type="application/json")
        elif text == "**three**":
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/render", answer)
    bodies = put_replies(page, "**one**", "**two**", "**three**", "**four**")
    expect(bodies.nth(3).locator("strong")).to_have_text("four")
    for index, text in enumerate(["**one**", "**two**", "**three**"]):
        expect(bodies.nth(index)).to_have_text(f"{text}Shown as plain text: the server could not format it.")
    page.unroute("**/v1/render")
    reloaded(page)
    expect(bodies.first.locator("strong")).to_have_text("one")
