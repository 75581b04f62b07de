"""The chat page in a real browser, with a real server behind it: typed in, streamed, stopped, regenerated, edited, reloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.tiny_chat import ALPHABET, Server, running, save_chat_model
from bench.warm_start import WarmStart
from tests.helpers.headless import needs_chromium

pytestmark = needs_chromium
TOKEN = "correct-horse-battery"
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("page")
    save_chat_model(base, "sum")
    save_chat_model(base, "alphabet", context_tokens=100_000)
    return base


@pytest.fixture(scope="module")
def server(models: Path, warm: WarmStart) -> Iterator[Server]:
    """Replies never end of themselves, and are as good as endless until they are stopped."""
    with running(warm, models, "-g=alphabet", "--max-reply-tokens=90000", "--max-tokens=90000", "-t=0") as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    yield from open_page(browser, server.url)


def open_page(browser: Browser, address: str, **settings: object) -> Iterator[Page]:
    """A page in a browser that knows nothing yet. Errors on the page, and anything it loads from elsewhere, fail the test."""
    context = browser.new_context(**settings)
    context.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None)
    opened.on("request", lambda request: errors.append(request.url) if not request.url.startswith(address.partition("#")[0]) else None)
    opened.goto(address)
    expect(opened.locator("#model")).not_to_be_empty()
    yield opened
    context.close()
    assert errors == []


def replies(page: Page) -> list[str]:
    return page.locator("article.assistant .body").all_inner_texts()


def reply_grows(page: Page, beyond: int = 60) -> None:
    body = page.locator("article.assistant .body").last
    while len(body.inner_text()) <= beyond:
        page.wait_for_timeout(20)


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def stop(page: Page) -> None:
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def reloaded(page: Page) -> None:
    """Reloads the page once all that is to be kept is stored."""
    expect(page.locator("#chats[aria-busy=true]")).to_have_count(0)
    page.reload()


def requests(page: Page) -> list[dict]:
    """The requests for replies, from now on."""
    sent: list[dict] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.url.endswith("/v1/chat/completions") else None)
    return sent


def put(page: Page, messages: list[dict[str, str]]) -> None:
    """Has the page show a conversation that it takes from a file."""
    page.locator("#import-file").set_input_files(
        {"name": "talk.json", "mimeType": "application/json", "buffer": json.dumps(messages).encode()}
    )
    page.locator(".chat-open").first.evaluate("button => button.click()")  # also where the list is folded away
    expect(page.locator("article")).to_have_count(len(messages))


def rows(server: Server) -> int:
    return server.stats()["active"] + server.stats()["queued"]


def test_a_reply_streams_and_stops_and_stays(page: Page, server: Server) -> None:
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    page.get_by_label("Your message").press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator("article.user .body")).to_have_text("one\ntwo")
    reply_grows(page, 60)
    half = len(replies(page)[0])
    reply_grows(page, half + 40)  # it comes bit by bit
    assert rows(server) == 1
    stop(page)
    expect(page.get_by_text("Stopped.", exact=True).first).to_be_visible()
    text = page.locator("article.assistant .body p").first.inner_text()
    assert text.startswith(ALPHABET * 2)
    for _ in range(100):
        if rows(server) == 0:
            break
        page.wait_for_timeout(20)
    assert rows(server) == 0  # the server has stopped too
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text("one\ntwo")
    assert page.locator("article.assistant .body p").first.inner_text() == text
    say(page, "three")  # what was said before is sent along, the stopped reply too
    reply_grows(page)
    page.keyboard.press("Escape")
    expect(page.locator("article")).to_have_count(4)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_regenerate_and_edit(page: Page) -> None:
    say(page, "first")
    reply_grows(page)
    stop(page)
    say(page, "second")
    reply_grows(page)
    stop(page)
    page.get_by_role("button", name="Regenerate").last.click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    reply_grows(page)
    stop(page)
    expect(page.locator("article")).to_have_count(4)
    page.locator("article.user").first.hover()
    page.get_by_role("button", name="Edit").first.click()
    field = page.get_by_label("Edit your message")
    expect(field).to_have_value("first")
    field.press("Escape")
    expect(page.locator("article.user .body").first).to_have_text("first")
    page.locator("article.user").first.hover()
    page.get_by_role("button", name="Edit").first.click()
    field.fill("changed")
    field.press("Enter")
    expect(page.locator("article.user .body")).to_have_text(["changed"])
    reply_grows(page)
    stop(page)
    expect(page.locator("article")).to_have_count(2)
    page.get_by_role("button", name="Earlier version").click()  # what was said before is still there, the second reply as well
    expect(page.locator("article.user .body")).to_have_text(["first", "second"])
    expect(page.get_by_label("Version 2 of 2")).to_have_count(1)
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text(["first", "second"])
    page.get_by_role("button", name="Later version").first.click()
    expect(page.locator("article.user .body")).to_have_text(["changed"])


def test_settings_are_sent_and_kept(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("2")
    page.get_by_label("Top-k").fill("3")
    page.get_by_label("Longest reply").fill("16")
    page.get_by_label("Seed").fill("5")
    page.get_by_label("Instructions to the model").fill("Be brief.")
    expect(page.locator("output[for=temperature]")).to_have_text("2")
    page.get_by_role("button", name="Done").click()
    sent = requests(page)
    say(page, "go")
    expect(page.get_by_text("greatest length")).to_be_visible()
    assert {name: sent[0][name] for name in ("temperature", "top_k", "max_tokens", "seed")} == {
        "temperature": 2,
        "top_k": 3,
        "max_tokens": 16,
        "seed": 5,
    }
    assert sent[0]["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "go"}]
    reloaded(page)
    page.get_by_role("button", name="Settings").click()
    assert page.get_by_label("Seed").input_value() == "5"
    page.get_by_role("button", name="Reset").click()
    assert page.get_by_label("Seed").input_value() == ""
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()


def test_errors_are_readable_and_the_way_back_is_a_button(browser: Browser, models: Path, warm: WarmStart) -> None:
    with running(warm, models, "-g=alphabet", "--max-tokens=20", "-t=0", "--max-characters=50") as server:
        opened = open_page(browser, server.url)
        page = next(opened)
        say(page, "x" * 60)
        alert = page.locator("#error")
        expect(alert).to_contain_text("60 characters; at most 50 are allowed. Nothing was stored: shorten the message")
        expect(page.locator("article")).to_have_count(0)
        expect(page.get_by_label("Your message")).to_have_value("x" * 60)
        say(page, "short")
        expect(page.get_by_text("greatest length")).to_be_visible()
        expect(alert).to_be_hidden()
        port = server.port
    say(page, "anyone?")
    expect(alert).to_contain_text("The server cannot be reached.")
    with running(warm, models, "-g=alphabet", f"--port={port}", "--max-tokens=20", "-t=0"):
        alert.get_by_role("button", name="Try again").click()
        expect(page.locator("article.assistant")).to_have_count(2)
        expect(alert).to_be_hidden()
        next(opened, None)


def test_a_tool_call_is_shown_as_one(browser: Browser, models: Path, warm: WarmStart) -> None:
    with running(warm, models, "-g=sum", "-t=0") as server:
        opened = open_page(browser, server.url)
        page = next(opened)
        say(page, "sum")
        card = page.get_by_role("group", name="Tool call")
        expect(card.locator("pre")).to_have_text(["6*7", "42"])
        expect(page.locator("article.assistant .text > p")).to_have_text(["Sum:", "-done!"])
        sent = requests(page)
        say(page, "again")
        expect(page.locator("article.assistant")).to_have_count(2)
        assert sent[0]["messages"][1]["content"][1:3] == [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
        next(opened, None)


def test_a_token_is_asked_for_and_taken_from_the_address(browser: Browser, models: Path, warm: WarmStart) -> None:
    with running(warm, models, "-g=alphabet", "--max-tokens=20", environment={"MC_CHAT_TOKEN": TOKEN}) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        expect(page.get_by_role("heading", name="This server asks for a token")).to_be_visible()
        assert page.evaluate("fetch('/v1/render', { method: 'POST', body: '{}' }).then((response) => response.status)") == 401
        page.get_by_role("textbox", name="Token").fill("wrong-token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("textbox", name="Token")).to_have_value("")
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("sft-alphabet")
        reloaded(page)
        expect(page.locator("#model")).to_have_text("sft-alphabet")
        context.close()
        page = browser.new_context().new_page()
        page.goto(f"{server.url}/#token={TOKEN}")
        expect(page.locator("#model")).to_have_text("sft-alphabet")
        assert TOKEN not in page.url
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_and_a_phone(browser: Browser, server: Server, scheme: str) -> None:
    """The system's appearance until another is chosen, which is kept; nothing is wider than a phone's screen."""
    opened = open_page(browser, server.url, color_scheme=scheme, viewport={"width": 360, "height": 700}, is_mobile=True, has_touch=True)
    page = next(opened)

    def brightness() -> int:
        return page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")

    assert (brightness() > 128) == (scheme == "light")
    say(page, "word " * 60 + "w" * 300)
    reply_grows(page, 300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.getElementById('scroller').scrollWidth <= document.getElementById('scroller').clientWidth")
    box = page.get_by_role("button", name="Stop").bounding_box()
    assert box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 700
    page.keyboard.press("Escape")
    page.get_by_role("button", name="appearance").click()
    assert (brightness() > 128) == (scheme == "dark")
    reloaded(page)
    assert (brightness() > 128) == (scheme == "dark")
    page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    page.emulate_media(color_scheme=scheme)
    assert (brightness() > 128) == (scheme == "dark")  # whatever the system does
    page.get_by_role("button", name="appearance").click()
    page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    page.wait_for_function("dark => document.documentElement.dataset.theme === (dark ? 'dark' : 'light')", arg=scheme == "light")
    assert (brightness() > 128) == (scheme == "dark")  # as the system, from now on
    next(opened, None)


def test_every_control_has_a_name(page: Page) -> None:
    say(page, "hello")
    reply_grows(page)
    stop(page)
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea')].filter(e => !(e.getAttribute('aria-label') || "
        "e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML)"
    )
    assert nameless == []
