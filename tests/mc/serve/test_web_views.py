"""What is shown of a session: spans that are its layout, text of any cut, messages as they were said."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.config import AllocatorConfig, SessionConfig
from mc.serve import web_views
from mc.serve.web_views import focus_view, messages_view, text_view, whole_characters
from mc.session.base_session import session_spec
from mc.session.session import MCSession
from mc.session.tree import RamTree
from nanochat.data.chat_template import render_conversation
from tests.helpers.tiny_memory import tiny_memory
from tests.helpers.tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = SessionConfig(
    mc_session_lod=3, mc_infer_refocus_interval=8, allocator=AllocatorConfig(allocator_expand_threshold=0, allocator_collapse_threshold=0)
)


def session(tokens: list[int]) -> MCSession:
    controller = tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()
    made = MCSession(controller, RamTree(session_spec(controller, CONFIG)), CONFIG)
    for piece in torch.tensor(tokens, dtype=torch.int64).split(50) if tokens else ():
        made.append(piece)
    return made


def random_tokens(n: int, seed: int = 0) -> list[int]:
    return torch.randint(256, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("noted", [0, 3])
def test_spans_are_the_layout(noted: int) -> None:
    """Also of tokens that the model has read and that are not laid out yet; scores are those of the entries."""
    s = session(random_tokens(777))
    for token in range(noted):
        s.note(torch.tensor([token]), torch.zeros(1, 32))
    view = json.loads(json.dumps(focus_view(s, with_scores=True)))
    K = view["block_size"]
    lod = [level for level, begin, end, entries in view["spans"] for _ in range(entries)]
    start = [at for level, begin, end, _ in view["spans"] for at in range(begin, end, K**level)]
    tiling = s.context.tiling
    assert lod == [*tiling.lod.tolist(), *[0] * noted] and start == [*tiling.start.tolist(), *range(777, 777 + noted)]
    levels = [span[0] for span in view["spans"]]
    assert len(set(levels)) > 2 and all(a != b for a, b in zip(levels, levels[1:], strict=False))
    assert view["tokens"] == 777 + noted and view["entries"] == len(lod) <= view["budget"] == s.budget.most
    assert view["residency"] == pytest.approx(len(lod) / s.budget.most, abs=1e-4) and view["refocuses"] == s.figures.refocuses > 0
    first = view["spans"][0][3]
    assert view["scores"][0] == pytest.approx(float(s.scores()[:first].mean()), abs=1e-3) and len(view["scores"]) == len(levels)
    assert "scores" not in focus_view(s)


def test_what_is_too_many_spans_is_drawn_in_less_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    s = session(random_tokens(900))
    fine = focus_view(s, with_scores=True)
    monkeypatch.setattr(web_views, "MOST_SPANS", 4)
    coarse = focus_view(s, with_scores=True)
    assert len(fine["spans"]) > 4 >= len(coarse["spans"])
    edges = {edge for span in fine["spans"] for edge in span[1:3]}
    assert coarse["spans"][0][1] == 0 and coarse["spans"][-1][2] == 900 and edges > {edge for span in coarse["spans"] for edge in span[1:3]}
    for one, next_one in zip(coarse["spans"], coarse["spans"][1:], strict=False):
        assert one[2] == next_one[1]
    for view in (fine, coarse):
        assert sum(span[3] for span in view["spans"]) == fine["entries"]
    total = [sum(score * span[3] for score, span in zip(view["scores"], view["spans"], strict=True)) for view in (fine, coarse)]
    assert total[0] == pytest.approx(total[1], abs=0.5)
    assert {span[0] for span in coarse["spans"]} <= {span[0] for span in fine["spans"]}


def test_nothing_yet_is_shown_as_nothing() -> None:
    s = session([])
    assert focus_view(s, with_scores=True)["spans"] == [] == messages_view(s, TOKENIZER, 5)["messages"]
    assert text_view(s, TOKENIZER, 0, 9) == {"start": 0, "end": 0, "text": "", "cut": False}


@given(st.text(max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_text_is_cut_between_characters(text: str, a: int, b: int) -> None:
    data = text.encode()
    begin, end = sorted((min(a, len(data)), min(b, len(data))))
    shown = whole_characters(data[begin:end])
    assert "\ufffd" not in shown.replace("\ufffd", "", text.count("\ufffd")) and shown in text
    assert len(data[begin:end]) - len(shown.encode()) <= 6


def test_text_of_a_span() -> None:
    said = "Grüße aus 東京. " * 300
    tokens = TOKENIZER.encode(said)
    s = session(tokens)
    whole = text_view(s, TOKENIZER, 0, len(tokens))
    assert whole["cut"] and len(whole["text"]) <= web_views.TEXT_CHARACTERS and said.startswith(whole["text"]) and len(whole["text"]) > 900
    few = text_view(s, TOKENIZER, 5, 25)
    assert not few["cut"] and few["text"] in said and few["text"]
    assert text_view(s, TOKENIZER, len(tokens) - 3, 10**12)["end"] == len(tokens)
    assert text_view(s, TOKENIZER, 10**12, 10**12 + 1)["text"] == ""
    for start, end in ((5, 5), (6, 5), (-1, 5)):
        with pytest.raises(ValueError, match=f"start is {start}"):
            text_view(s, TOKENIZER, start, end)


PARTS = [{"type": "text", "text": "It is"}, {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
SAID = [
    {"role": "user", "content": "What is six times seven? Grüße"},
    {"role": "assistant", "content": PARTS},
    {"role": "user", "content": "And <|bos|> is text"},
    {"role": "assistant", "content": "Yes."},
]


def shown(message: dict) -> dict:
    parts = message["content"]
    return {"role": message["role"], "parts": [{"type": "text", "text": parts}] if isinstance(parts, str) else parts, "cut": False}


def test_messages_are_those_that_were_said() -> None:
    tokens, _ = render_conversation(TOKENIZER, {"messages": SAID}, 10_000)
    view = messages_view(session(tokens), TOKENIZER, 10)
    assert view == {"messages": [shown(message) for message in SAID], "earlier": False}
    assert messages_view(session(tokens), TOKENIZER, 1) == {"messages": [shown(SAID[-1])], "earlier": True}
    # A reply that is being written has no end yet, and a new one no text.
    assert messages_view(session(tokens[:-2]), TOKENIZER, 1)["messages"][0]["role"] == "assistant"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 80))
def test_what_began_too_long_ago_is_cut_and_still_its_author_s(window: int) -> None:
    tokens, _ = render_conversation(TOKENIZER, {"messages": SAID}, 10_000)
    s = session(tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_views, "MESSAGE_TOKENS", window)
        view = messages_view(s, TOKENIZER, 10)
    assert view["earlier"] == (window < len(tokens))
    whole = [shown(message) for message in SAID]
    for i, message in enumerate(reversed(view["messages"])):
        expected = whole[len(whole) - 1 - i]
        assert message["role"] == expected["role"]
        if i < len(view["messages"]) - 1:
            assert message == expected
        else:
            text = "".join(part["text"] for part in expected["parts"])
            assert text.endswith("".join(part["text"] for part in message["parts"]).replace("\ufffd", ""))
            assert message["cut"] or message == expected


def test_of_a_long_message_the_end_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_views, "MESSAGE_CHARACTERS", 7)
    tokens, _ = render_conversation(TOKENIZER, {"messages": SAID}, 10_000)
    first, second, *_ = messages_view(session(tokens), TOKENIZER, 10)["messages"]
    assert first == {"role": "user", "parts": [{"type": "text", "text": "? Grüße"}], "cut": True}
    assert [part["text"] for part in second["parts"]] == ["is", "6*7", "42"] and second["cut"]


def test_a_document_without_an_end_in_sight_is_the_user_s() -> None:
    tokens = [TOKENIZER.bos_id, TOKENIZER.special_tokens["<|user_start|>"], *TOKENIZER.encode("word " * 50)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_views, "MESSAGE_TOKENS", 20)
        (message,) = messages_view(session(tokens), TOKENIZER, 10)["messages"]
    assert message["role"] == "user" and message["cut"] and "word" in message["parts"][0]["text"]
