"""The chat page with sessions in a real browser: the map that moves and what it says, documents, sessions that come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from bench.tiny_chat import ALPHABET, Server, running, save_chat_model, tiny_tokenizer
from bench.warm_start import WarmStart
from tests.helpers.headless import needs_chromium
from tests.scripts.test_chat_page import open_page, reloaded, replies, say
from tests.scripts.test_chat_page_chats import spoken

pytestmark = needs_chromium
FLAGS = ("--mc", "-g=alphabet", "-t=0", "--max-tokens=300", "--allocator-expand-threshold=0", "--allocator-collapse-threshold=0")
SMALL = ("--allocator-soft-max-length=200", "--mc-infer-refocus-interval=8", "--max-document-bytes=200000", "--ingest-quota=60000")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm: WarmStart) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("mc-page")
    save_chat_model(base, "alphabet", context_tokens=2048, memory=True)
    with running(warm, base, *FLAGS, *SMALL) as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """In a session of the test's own."""
    for page in open_page(browser, server.url):
        expect(page.locator("#memory")).to_be_visible()
        new_session(page, "".join(c if c.isalnum() else "-" for c in request.node.name)[:40])
        yield page


def new_session(page: Page, name: str) -> None:
    page.get_by_role("button", name="New session").click()
    page.get_by_label("Name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#session")).to_have_value(name)


def picture(page: Page) -> str:
    """What is drawn on the map."""
    return page.evaluate("document.getElementById('map').toDataURL()")


def figure(page: Page, name: str) -> str:
    return page.locator("#figures span", has_text=name).locator("b").inner_text()


def hover(page: Page, share: float) -> Locator:
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + box["width"] * share, box["y"] + 25)
    return page.locator("#span")


def upload(page: Page, name: str, content: bytes) -> None:
    page.locator("#document").set_input_files({"name": name, "mimeType": "text/plain", "buffer": content})


def test_the_map_appears_and_moves_while_the_model_writes(page: Page) -> None:
    expect(page.locator("#figures")).to_contain_text("History 0 tokens")
    page.evaluate(
        "window.drawn = []; new MutationObserver(() => drawn.push(document.getElementById('map').toDataURL()))"
        ".observe(document.getElementById('figures'), { childList: true })"
    )
    spoken(page, "hello")
    drawn = page.evaluate("window.drawn")
    assert len(drawn) > 30 and len(set(drawn)) > 5
    # <|bos|> <|user_start|> … <|user_end|> <|assistant_start|> 300 letters <|assistant_end|>
    expect(page.locator("#figures")).to_contain_text(f"History {5 + 300 + len(tiny_tokenizer().encode('hello'))} tokens")
    entries, budget = (int(part) for part in figure(page, "Entries").split(" of "))
    assert 0 < entries <= budget == 200 and figure(page, "Residency") == f"{int(100 * entries / budget + 0.5)}%"
    assert int(figure(page, "Refocuses")) > 30 and figure(page, "Swap rate").endswith("%")
    expect(page.locator("#legend")).to_contain_text("raw")
    expect(page.locator("#legend")).to_contain_text("LOD1: 8 tokens a gist")
    assert replies(page)[-1].startswith(ALPHABET)


def test_hovering_and_arrow_keys_show_what_is_there(page: Page, server: Server) -> None:
    spoken(page, "one")
    name = page.locator("#session").input_value()
    focus = server.get(f"/v1/sessions/{name}/focus")
    level, start, end, entries = focus["spans"][-1]
    tip = hover(page, 0.999)
    expect(tip.locator(".span-head")).to_have_text(
        f"{f'LOD{level}' if level else 'Raw'} · tokens {start}–{end - 1} · {entries} entries · score "
        + f"{'−' if focus['scores'][-1] < 0 else '+'}{abs(focus['scores'][-1]):.2f}"
    )
    expect(tip.locator(".span-text")).to_contain_text("<|assistant_end|>")
    tip = hover(page, 0.0)
    expect(tip.locator(".span-head")).to_contain_text("tokens 0–")
    expect(tip.locator(".span-text")).to_contain_text("<|bos|><|user_start|>one")
    marked = picture(page)
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    assert picture(page) != marked
    slider = page.get_by_role("slider", name="What the model reads")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "0")
    expect(tip).to_be_visible()
    seen = []
    for span in focus["spans"][:5]:
        assert f"tokens {span[1]} to {span[2] - 1}, {span[3]} entries" in slider.get_attribute("aria-valuetext")
        text = server.get(f"/v1/sessions/{name}/text?start={span[1]}&end={min(span[2], span[1] + 8)}")["text"]
        expect(tip.locator(".span-text")).to_contain_text(text.strip())
        seen.append(slider.get_attribute("aria-valuenow"))
        page.keyboard.press("ArrowRight")
    assert seen == list("01234")[: len(focus["spans"])] and len(seen) > 2
    page.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuenow", str(len(focus["spans"]) - 1))
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_a_document_is_sent_and_read(page: Page) -> None:
    text = "".join(f"Line {i} of a long document.\n" for i in range(2200))
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(document.querySelector('#reading span').textContent))"
        ".observe(document.getElementById('reading'), { childList: true, subtree: true, attributes: true })"
    )
    upload(page, "long.txt", text.encode())
    expect(page.locator("article.assistant .body")).to_have_text("I have read long.txt.")
    expect(page.locator("#reading")).to_be_hidden()
    progress = page.evaluate("window.said")
    assert any(line.startswith("Sending long.txt") for line in progress) and any(
        line.startswith("Reading long.txt: 32,768 of") for line in progress
    )
    expect(page.locator("article.user .body")).to_contain_text("Line 2199 of a long document.")
    expect(page.locator("article.user .body")).to_contain_text("Only the end of this is shown")
    assert int(figure(page, "History").split(" ")[0].replace(",", "")) > 30_000
    spoken(page, "And?")
    expect(hover(page, 0.02).locator(".span-head")).to_contain_text("LOD")
    expect(page.locator("#span .span-text")).to_contain_text("of a long document.")


def test_a_document_can_be_dropped_and_stopped(page: Page) -> None:
    drop = """(type) => {
        const data = new DataTransfer();
        data.items.add(new File(['Dropped words. '.repeat(20)], 'dropped.md', { type: 'text/markdown' }));
        document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, "dragenter")
    expect(page.get_by_text("Drop a text file")).to_be_visible()
    page.evaluate(drop, "drop")
    expect(page.get_by_text("Drop a text file")).to_be_hidden()
    expect(page.locator("article.assistant .body")).to_have_text("I have read dropped.md.")
    page.route("**/documents?*", lambda route: None)  # as slow as can be
    upload(page, "slow.txt", b"word " * 100)
    page.locator("#reading").get_by_role("button", name="Stop").click()
    expect(page.locator("#reading")).to_be_hidden()
    page.unroute("**/documents?*")
    expect(page.locator("article")).to_have_count(2)
    expect(page.get_by_role("button", name="Add a document")).to_be_enabled()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("a.out", b"\x7fELF\0\0", "A.out is not text: byte 4 is NUL"),
        ("latin.txt", b"Gr\xfc\xdfe", "Latin.txt is not UTF-8 text"),
        ("big.txt", b"word " * 50_000, "big.txt is too large: this server takes up to 0.2 MB"),
        ("long.txt", b"q x " * 40_000, "more than 60,000 tokens"),
    ],
)
def test_what_cannot_be_read_is_said_so(page: Page, name: str, content: bytes, says: str) -> None:
    upload(page, name, content)
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    assert says.lower() in alert.inner_text().lower()
    expect(page.locator("#reading")).to_be_hidden()
    expect(page.locator("#figures")).to_contain_text("History 0 tokens")
    spoken(page, "Still there?")
    expect(alert).to_be_hidden()


def test_sessions_are_picked_forked_deleted_and_gone_on_with(page: Page, server: Server) -> None:
    spoken(page, "first words")
    name = page.locator("#session").input_value()
    page.get_by_role("button", name="Fork this session").click()
    page.get_by_label("Name").fill("copy")
    page.get_by_role("button", name="Fork", exact=True).click()
    expect(page.locator("#session")).to_have_value("copy")
    expect(page.locator("article.user .body")).to_have_text("first words")
    spoken(page, "second words")
    history = f"History {server.get('/v1/sessions/copy/focus')['tokens']} tokens"
    expect(page.locator("#figures")).to_contain_text(history)
    reloaded(page)
    expect(page.locator("#session")).to_have_value("copy")
    expect(page.locator("article.user .body")).to_have_text(["first words", "second words"])
    expect(page.locator("article.assistant")).to_have_count(2)
    expect(page.locator("#figures")).to_contain_text(history)
    assert page.get_by_role("button", name="Regenerate").count() == 0 == page.get_by_role("button", name="Edit").count()
    page.locator("#session").select_option(name)
    expect(page.locator("article.user .body")).to_have_text(["first words"])
    page.locator("#session").select_option("copy")
    expect(page.locator("article.user .body")).to_have_count(2)
    page.get_by_role("button", name="Delete this session").click()
    expect(page.get_by_role("dialog")).to_contain_text("copy with its")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Enter")  # what has the focus is harmless
    expect(page.locator("#session")).to_have_value("copy")
    page.get_by_role("button", name="Delete this session").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#session")).not_to_have_value("copy")
    assert "copy" not in [option.split(" · ")[0] for option in page.locator("#session option").all_inner_texts()]
    new_session(page, "taken")
    page.get_by_role("button", name="New session").click()
    page.get_by_label("Name").fill("taken")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("Session taken already exists")


def test_stopping_and_speaking_at_once(page: Page) -> None:
    """The server may still be busy with the end of what was stopped."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest reply").fill("2000")
    page.keyboard.press("Escape")
    say(page, "endless")
    expect(page.locator("article.assistant .body")).to_contain_text("abc")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.", exact=True).first).to_be_visible()
    spoken(page, "next")
    expect(page.get_by_role("alert")).to_be_hidden()
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text(["endless", "next"])
    texts = page.locator("article.assistant .body").all_inner_texts()
    assert len(texts) == 2 and all(text.startswith("abc") for text in texts) and len(texts[0]) < 1200


def test_a_message_waits_for_the_session_that_is_being_opened(page: Page) -> None:
    """What the session held arrives late; it must not take the place of what was said meanwhile."""

    def late(route: Route) -> None:
        time.sleep(1.0)
        route.continue_()

    spoken(page, "earlier")
    page.route("**/messages", late)
    name = page.locator("#session").input_value()
    new_session(page, f"{name[:30]}-other")
    page.locator("#session").select_option(name)
    say(page, "later")
    expect(page.locator("article.user .body")).to_have_text(["earlier", "later"])
    expect(page.locator("article.assistant .body").nth(1)).to_contain_text("abc")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_and_a_phone(browser: Browser, server: Server, scheme: str) -> None:
    for page in open_page(browser, server.url, color_scheme=scheme, viewport={"width": 360, "height": 700}, is_mobile=True, has_touch=True):
        new_session(page, f"phone-{scheme}")
        spoken(page, "hello")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.locator("#map")).to_be_hidden()  # there is little room
        page.get_by_role("button", name="Map").tap()
        expect(page.locator("#map")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tip = hover(page, 0.9)
        expect(tip).to_be_visible()
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360
        colours = "['level0', 'level4'].map(name => getComputedStyle(document.documentElement).getPropertyValue('--' + name))"
        before, drawn = page.evaluate(colours), picture(page)
        page.get_by_role("button", name="appearance").click()
        page.wait_for_timeout(100)
        assert page.evaluate(colours) != before and picture(page) != drawn


def test_the_map_folds_and_the_figures_are_explained(page: Page) -> None:
    expect(page.locator("#focus")).to_have_text("Nothing has been read yet.")
    expect(page.locator("#map")).to_be_hidden()
    page.get_by_role("button", name="Map").click()
    expect(page.locator("#focus")).to_be_hidden()
    reloaded(page)
    expect(page.locator("#figures")).to_contain_text("Residency")
    expect(page.locator("#focus")).to_be_hidden()
    page.get_by_role("button", name="Map").click()
    spoken(page, "hello")
    expect(page.locator("#focus")).not_to_contain_text("Nothing has been read yet.")
    assert len(set(page.evaluate("[...map.getContext('2d').getImageData(0, 20, map.width, 1).data]"))) > 2  # it is drawn again
    expect(page.locator(".explain dl")).to_be_hidden()
    page.get_by_label("What the figures mean").click()
    expect(page.locator(".explain dl")).to_contain_text("Swap rate")


def test_a_plain_conversation_beside_sessions(page: Page) -> None:
    spoken(page, "in the session")
    name = page.locator("#session").input_value()
    expect(page.locator("#context")).to_be_hidden()  # a session has no limit
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_role("button", name="Add a document")).to_be_hidden()
    expect(page.locator("#focus")).to_be_hidden()
    spoken(page, "plain words")
    expect(page.locator("#context")).to_contain_text("of 2,048 tokens")
    reloaded(page)
    expect(page.locator("article.user .body")).to_have_text(["plain words"])
    page.locator("#session").select_option(name)
    expect(page.locator("article.user .body")).to_have_text(["in the session"])
    page.locator(".chat-open").click()
    expect(page.locator("article.user .body")).to_have_text(["plain words"])
    expect(page.locator("#session")).to_have_value("")


def test_every_control_has_a_name(page: Page) -> None:
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea, select, canvas, progress')].filter(e => !("
        "e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length) || e.closest('[hidden]')))"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []
