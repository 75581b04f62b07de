"""The page for everybody: nothing that axe finds, targets that a finger hits, the list of conversations on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from bench.tiny_chat import Server, running, save_chat_model
from bench.warm_start import WarmStart
from tests.helpers.headless import needs_chromium
from tests.scripts.test_chat_page import open_page, put, reloaded
from tests.scripts.test_chat_page_chats import spoken
from tests.scripts.test_chat_page_mc import new_session

pytestmark = needs_chromium
REPLY = "###### Low\n\n# High\n\n```python\nx = 'a'  # b\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n- [x] done\n\n[link](https://example.org)"
LONG = "A long message, which scrolls. " * 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm: WarmStart) -> Iterator[Server]:
    base: Path = tmp_path_factory.mktemp("access")
    save_chat_model(base, "alphabet", context_tokens=2048, memory=True)
    with running(warm, base, "--mc", "-g=alphabet", "--max-tokens=20", "-t=0") as started:
        yield started


def talk(page: Page) -> None:
    """Shows a conversation with one of each kind of thing."""
    put(page, [{"role": "user", "content": LONG}, {"role": "assistant", "content": REPLY}])
    expect(page.locator("article.assistant h3").first).to_be_visible()


def findings(page: Page) -> list[tuple[str, str]]:
    found = Axe().run(page).response["violations"]
    return [(each["id"], node["html"]) for each in found for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, server: Server, scheme: str) -> None:
    for page in open_page(browser, server.url, color_scheme=scheme, reduced_motion="reduce"):
        expect(page.locator("#memory")).to_be_visible()
        assert findings(page) == []
        new_session(page, scheme)
        spoken(page, "hello")
        page.get_by_label("What the figures mean").click()
        assert findings(page) == []
        talk(page)
        page.get_by_role("button", name="More about A long message").click()
        page.locator("article.assistant").hover()
        assert findings(page) == []
        page.get_by_role("button", name="Settings").click()
        assert findings(page) == []
        page.keyboard.press("Escape")
        page.locator("article.user").hover()
        page.get_by_role("button", name="Edit").click()
        assert findings(page) == []


def test_a_finger_hits_every_target(browser: Browser, server: Server) -> None:
    for page in open_page(browser, server.url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True):
        new_session(page, "phone")
        spoken(page, "hello")
        page.get_by_role("button", name="Map").tap()
        small = """() => [...document.querySelectorAll('button, summary, select:not(:disabled), input, textarea, a')]
            .filter(e => e.checkVisibility() && e.type !== 'checkbox' && !e.closest('.text p'))
            .filter(e => Math.min(e.getBoundingClientRect().height, e.tagName === 'TEXTAREA' ? 99 : e.getBoundingClientRect().width) < 44)
            .map(e => e.outerHTML.slice(0, 90))"""
        assert "\n".join(page.evaluate(small)) == ""
        talk(page)
        assert "\n".join(page.evaluate(small)) == ""
        page.get_by_role("button", name="Conversations", exact=True).tap()
        page.get_by_role("button", name="More about A long message").tap()
        expect(page.get_by_role("button", name="Export JSON")).to_be_visible()
        assert "\n".join(page.evaluate(small)) == ""
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_list_lies_over_a_narrow_page(browser: Browser, server: Server) -> None:
    for page in open_page(browser, server.url, viewport={"width": 640, "height": 400}):
        expect(page.locator("#chats")).to_be_hidden()
        page.get_by_role("button", name="Conversations", exact=True).click()
        expect(page.get_by_label("Search the conversations")).to_be_focused()
        assert page.locator("main").evaluate("main => main.inert")
        page.keyboard.press("Escape")
        expect(page.locator("#chats")).to_be_hidden()
        expect(page.get_by_role("button", name="Conversations", exact=True)).to_be_focused()
        page.get_by_role("button", name="Conversations", exact=True).click()
        page.get_by_role("button", name="New chat").click()
        expect(page.locator("#chats")).to_be_hidden()
        expect(page.get_by_label("Your message")).to_be_focused()


def test_the_list_can_be_hidden_and_stays_so(browser: Browser, server: Server) -> None:
    for page in open_page(browser, server.url):
        toggle = page.get_by_role("button", name="Conversations", exact=True)
        expect(toggle).to_have_attribute("aria-expanded", "true")
        toggle.click()
        expect(page.locator("#chats")).to_be_hidden()
        reloaded(page)
        expect(page.locator("#chats")).to_be_hidden()
        toggle.press("Enter")
        expect(page.locator("#chats")).to_be_visible()
