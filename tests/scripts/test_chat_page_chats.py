"""The conversations of the page: listed, searched, named, deleted, taken out and in, kept apart in two tabs and on a full disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.tiny_chat import Server, running, save_chat_model
from bench.warm_start import WarmStart
from tests.helpers.headless import needs_chromium
from tests.scripts.test_chat_page import open_page, reloaded, say

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm: WarmStart) -> Iterator[Server]:
    base: Path = tmp_path_factory.mktemp("chats")
    save_chat_model(base, "alphabet")
    with running(warm, base, "-g=alphabet", "--max-tokens=5", "-t=0") as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    yield from open_page(browser, server.url)


def spoken(page: Page, text: str) -> None:
    """Says something, and waits for the end of the reply, which is stored then."""
    before = page.locator("article.assistant").count()
    say(page, text)
    expect(page.locator("article.assistant")).to_have_count(before + 1)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def titles(page: Page) -> list[str]:
    return page.locator(".chat-open").all_inner_texts()


def said(page: Page) -> list[str]:
    return page.locator("article.user .body").all_inner_texts()


def more(page: Page, title: str, action: str) -> None:
    page.locator("#chat-list li", has_text=title).hover()
    page.get_by_role("button", name=f"More about {title}").click()
    page.get_by_role("button", name=action, exact=True).click()


def new_chat(page: Page) -> None:
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)


def test_a_new_chat_keeps_the_old_ones(page: Page) -> None:
    expect(page.locator("#no-chats")).to_be_visible()
    spoken(page, "About ships\nand the sea")
    expect(page.locator(".chat-open")).to_have_text(["About ships"])
    new_chat(page)
    reloaded(page)
    expect(page.locator(".chat-open")).to_have_text(["About ships"])
    expect(page.locator("article")).to_have_count(0)  # the new one is still open
    spoken(page, "About trains")
    expect(page.locator(".chat-open")).to_have_text(["About trains", "About ships"])
    expect(page.locator(".chat-open[aria-current]")).to_have_text("About trains")
    page.locator(".chat-open", has_text="ships").click()
    expect(page.locator("article.user .body")).to_have_text(["About ships\nand the sea"])
    spoken(page, "more")
    expect(page.locator(".chat-open")).to_have_text(["About ships", "About trains"])
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text(["About ships\nand the sea", "more"])
    new_tab = page.context.new_page()
    new_tab.goto(page.url)
    expect(new_tab.locator("article.user .body")).to_have_count(2)


def test_search_rename_and_delete(page: Page) -> None:
    for text in ("About ships", "About trains"):
        spoken(page, text)
        new_chat(page)
    page.get_by_label("Search the conversations").fill("TRAIN")
    expect(page.locator(".chat-open")).to_have_text(["About trains"])
    page.get_by_label("Search the conversations").fill("abcde")  # what the model said
    expect(page.locator(".chat-open")).to_have_count(2)
    page.get_by_label("Search the conversations").fill("planes")
    expect(page.locator("#no-chats")).to_have_text("Nothing was said about “planes”.")
    page.get_by_label("Search the conversations").fill("")
    expect(page.locator(".chat-open")).to_have_count(2)
    more(page, "About ships", "Rename")
    page.get_by_label("Name of the conversation").fill("<b>Boats</b>")
    page.keyboard.press("Enter")
    expect(page.locator(".chat-open")).to_have_text(["About trains", "<b>Boats</b>"])
    more(page, "About trains", "Rename")
    page.get_by_label("Name of the conversation").fill("Nothing")
    page.keyboard.press("Escape")
    expect(page.locator(".chat-open")).to_have_text(["About trains", "<b>Boats</b>"])
    page.locator(".chat-open", has_text="Boats").click()
    expect(page.locator("article")).to_have_count(2)
    more(page, "<b>Boats</b>", "Delete")
    expect(page.locator(".chat-open")).to_have_text(["About trains"])
    expect(page.locator("article")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".chat-open")).to_have_count(2)
    expect(page.locator("article.user .body")).to_have_text(["About ships"])
    more(page, "About trains", "Delete")
    expect(page.locator(".chat-open")).to_have_count(1)
    reloaded(page)
    expect(page.locator(".chat-open")).to_have_text(["<b>Boats</b>"])


def downloaded(page: Page, title: str, action: str) -> tuple[str, str]:
    with page.expect_download() as waiting:
        more(page, title, action)
    page.get_by_role("button", name=f"More about {title}").click()
    return waiting.value.suggested_filename, waiting.value.path().read_text()


def test_conversations_go_into_files_and_come_back_with_their_versions(page: Page) -> None:
    spoken(page, "One: two?")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    name, text = downloaded(page, "One: two?", "Export Markdown")
    assert (name, text) == ("One-two.md", "# One: two?\n\n## You\n\nOne: two?\n\n## Assistant\n\nabcde\n")
    name, text = downloaded(page, "One: two?", "Export JSON")
    exported = json.loads(text)
    assert name == "One-two.json" and len(exported["conversations"][0]["messages"]) == 3
    file = {"name": name, "mimeType": "application/json", "buffer": text.encode()}
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#toast")).to_contain_text("1 conversation was imported.")
    expect(page.locator(".chat-open")).to_have_text(["One: two?"] * 2)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export all").click()
    assert len(json.loads(waiting.value.path().read_text())["conversations"]) == 2
    new_chat(page)
    page.locator(".chat-open").last.click()
    expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    page.get_by_role("button", name="Earlier version").click()
    expect(page.get_by_label("Version 1 of 2")).to_be_visible()


ORPHAN = {"id": "a", "parent": "b", "role": "user", "parts": [{"type": "text", "text": "x"}], "created": 1}
ORPHANED = {"title": "a", "messages": [ORPHAN]}
NO_MESSAGE = {"title": "a", "messages": [ORPHANED]}
CIRCLE = {"title": "a", "messages": [ORPHAN | {"parent": None}, ORPHAN | {"parent": "a", "created": 2}]}


def exported(conversation: dict) -> str:
    return json.dumps({"format": "megacontext-chats", "conversations": [conversation]})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a", "it is not JSON"),
        ("[]", "a message in it has no role or no text"),
        ('[{"role": "user", "content": 1}]', "a message in it has no role or no text"),
        ('{"format": "other"}', "it is of another kind"),
        *((exported(each), "conversation 1 is damaged") for each in (NO_MESSAGE, ORPHANED, CIRCLE)),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(page: Page, content: str, says: str) -> None:
    page.locator("#import-file").set_input_files({"name": "x.json", "mimeType": "application/json", "buffer": content.encode()})
    expect(page.locator("#error")).to_contain_text(f"x.json cannot be imported: {says}")
    expect(page.locator(".chat-open")).to_have_count(0)


def test_two_tabs_do_not_overwrite_each_other(page: Page) -> None:
    spoken(page, "first")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("article.user .body")).to_have_text(["first"])
    new_chat(other)
    spoken(other, "elsewhere")
    expect(page.locator(".chat-open")).to_have_text(["elsewhere", "first"])  # without a reload
    assert said(page) == ["first"]
    other.locator(".chat-open", has_text="first").click()
    expect(other.locator("article.user .body")).to_have_text(["first"])
    page.route("**/v1/chat/completions", lambda route: (other.wait_for_timeout(500), route.continue_()))
    say(page, "from here")  # both go on from the same message
    spoken(other, "from there")
    expect(page.locator("article.assistant")).to_have_count(2)
    expect(page.locator("article.user .body")).to_have_text(["first", "from here"])
    expect(page.get_by_label("Version 1 of 2").or_(page.get_by_label("Version 2 of 2"))).to_be_visible()
    reloaded(page)
    last = page.locator("article.user .body").last
    kept = {last.inner_text()}
    step = page.get_by_role("button", name="Earlier version")
    (step if step.is_enabled() else page.get_by_role("button", name="Later version")).click()
    assert kept | {last.inner_text()} == {"from here", "from there"}
    more(other, "first", "Delete")
    expect(page.locator("#toast")).to_contain_text("This conversation was deleted in another tab.")
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator(".chat-open")).to_have_text(["elsewhere"])


def test_a_tab_that_hears_nothing_of_another_overwrites_nothing_of_it(page: Page) -> None:
    page.context.add_init_script("BroadcastChannel.prototype.postMessage = () => {}")
    reloaded(page)
    spoken(page, "first")
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("article.user .body")).to_have_text(["first"])
    page.bring_to_front()
    spoken(page, "from here")
    more(page, "first", "Rename")
    page.get_by_label("Name of the conversation").fill("Named")
    page.keyboard.press("Enter")
    expect(page.locator(".chat-open")).to_have_text(["Named"])
    spoken(other, "from there")
    reloaded(page)
    expect(page.locator(".chat-open")).to_have_text(["Named"])
    expect(page.locator("article.user .body")).to_have_text(["first", "from there"])
    page.get_by_role("button", name="Earlier version").click()
    expect(page.locator("article.user .body")).to_have_text(["first", "from here"])
    expect(page.locator("article.assistant")).to_have_count(2)


def test_a_full_storage_is_told_in_one_line(page: Page, server: Server) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.url, "quotaSize": 30_000})
    spoken(page, "hello")
    expect(page.locator("#storage")).to_contain_text("This browser's storage is full: what you write now is lost when the page closes.")
    spoken(page, "again")
    expect(page.locator(".chat-open")).to_have_count(0)
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.url})
    spoken(page, "now")  # there is room again: what was not stored is
    expect(page.locator("#storage")).to_be_hidden()
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text(["hello", "again", "now"])
    expect(page.locator("article.assistant")).to_have_count(3)


def test_without_storage_the_page_works_and_says_so(browser: Browser, server: Server) -> None:
    for page in open_page(browser, server.url):
        page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
        reloaded(page)
        expect(page.locator("#storage")).to_contain_text("This browser stores nothing for this page")
        spoken(page, "hello")
        spoken(page, "again")
        expect(page.locator("article")).to_have_count(4)
