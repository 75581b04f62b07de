"""What the page does at the limits of a conversation: it slides and says so, and refuses what is too long before anything is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.tiny_chat import Server, running, save_chat_model
from bench.warm_start import WarmStart
from tests.helpers.headless import needs_chromium
from tests.scripts.test_chat_page import open_page, put, reloaded, requests, say
from tests.scripts.test_chat_page_chats import spoken

pytestmark = needs_chromium
LIMIT = 300


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("context")
    save_chat_model(base, "alphabet", context_tokens=LIMIT)
    return base


@pytest.fixture(scope="module")
def server(models: Path, warm: WarmStart) -> Iterator[Server]:
    with running(warm, models, "-g=alphabet", "--max-tokens=40", "-t=0") as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    yield from open_page(browser, server.url)


def talk(*texts: str) -> list[dict[str, str]]:
    """A conversation of these texts, which no reply tells the tokens of."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_long_conversation_slides_with_a_notice(page: Page) -> None:
    sent = requests(page)
    for turn in range(9):
        spoken(page, f"Question {turn}: what comes after abc?")
        expect(page.locator("#error")).to_be_hidden()
    bodies = page.locator("article.assistant .text")
    assert all(len(body.inner_text()) == 40 for body in bodies.all())  # none is cut short for want of room
    expect(page.locator(".slid")).to_have_text("The model no longer reads what is above: the conversation is longer than its 300 tokens.")
    last = sent[-1]["messages"]
    assert 1 < len(last) < 17 and last[0]["role"] == "user" and last[-1]["content"].startswith("Question 8")
    assert page.locator(".slid + article .body").inner_text() == last[0]["content"]
    assert len(sent) == 9  # it was known before the server had to say so
    reloaded(page)
    expect(page.locator("article.user")).to_have_count(9)  # nothing is thrown away
    expect(page.locator(".slid")).to_be_visible()
    expect(page.locator("#context-text")).to_have_text(f"Context: {used(page)} of 300 tokens")


def used(page: Page) -> str:
    return page.locator(".stats").last.inner_text().split("context ")[1].split(" /")[0]


def test_what_the_server_finds_too_long_slides_as_well(page: Page) -> None:
    put(page, talk("x" * 350, "abc", "short", "def"))  # the first message alone is too long for any reply
    spoken(page, "next")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator(".slid + article .body")).to_have_text("short")


def test_a_message_that_is_too_long_is_refused_and_poisons_nothing(page: Page) -> None:
    spoken(page, "first")
    say(page, "y " * 400)
    expect(page.locator("#error")).to_contain_text("this model takes 300 together with its reply. Nothing was stored: shorten the message")
    expect(page.get_by_label("Your message")).to_have_value("y " * 400)
    expect(page.locator("article")).to_have_count(2)
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text(["first"])
    spoken(page, "second")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator(".slid")).to_have_count(0)
    page.locator("article.user").last.hover()
    page.get_by_role("button", name="Edit").last.click()
    page.get_by_label("Edit your message").fill("z " * 400)
    page.keyboard.press("Enter")
    expect(page.locator("#error")).to_contain_text("Nothing was stored")
    expect(page.get_by_label("Edit your message")).to_have_value("z " * 400)
    page.keyboard.press("Escape")
    expect(page.locator("article.user .body")).to_have_text(["first", "second"])
    expect(page.locator("article.assistant")).to_have_count(2)


def test_too_many_messages_slide(browser: Browser, models: Path, warm: WarmStart) -> None:
    with running(warm, models, "-g=alphabet", "--max-tokens=3", "-t=0", "--max-messages=4") as server:
        for page in open_page(browser, server.url):
            put(page, talk(*"abcdefgh"))
            spoken(page, "i")
            expect(page.locator("#error")).to_be_hidden()
            expect(page.locator(".slid + article .body")).to_have_text("g")


def test_a_reply_tells_its_tokens_its_speed_and_the_context(page: Page) -> None:
    spoken(page, "hello")
    stats = page.locator(".stats").last
    expect(stats).to_contain_text("40 tokens · ")
    expect(stats).to_contain_text(" tokens/s · context ")
    tokens = int(used(page))
    assert 45 <= tokens <= 55  # those of the reply, of the message and of the template
    expect(page.locator("#context-text")).to_have_text(f"Context: {tokens} of 300 tokens")
    assert page.locator("#context-bar").evaluate("bar => [bar.value, bar.max]") == [tokens, LIMIT]


def test_a_model_can_be_chosen_where_there_are_several(page: Page, server: Server) -> None:
    model = server.get("/v1/models")["data"][0]
    expect(page.get_by_label("Model", exact=True)).to_be_disabled()
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [model, model | {"id": "other", "context_tokens": 200}]}))
    reloaded(page)
    page.get_by_label("Model", exact=True).select_option("other")
    expect(page.locator("#context-text")).to_contain_text("of 200 tokens")
    sent = requests(page)
    say(page, "hello")
    expect(page.locator("#error")).to_contain_text("does not exist")  # only the list says so
    assert sent[0]["model"] == "other"
    reloaded(page)
    expect(page.get_by_label("Model", exact=True)).to_have_value("other")
