"""What uses sessions, with those in keys and values: conversations, documents, views, telemetry, evaluations, costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mc.eval.cost_eval import measure_cost
from mc.eval.session_baselines import SESSION_CONDITIONS, Reader, SessionEval
from mc.memory_model import MemoryModel
from mc.serve.web_views import focus_view
from mc.session.conversation import SessionConversation
from mc.session.describe import describe_focus, measure_focus
from mc.session.ingest import ingest, is_whole
from mc.session.layered_session import LayeredSession
from mc.telemetry.sessions import SessionEvents
from nanochat.infer.sampling import Sampling
from tests.helpers.layered_memory import K, layered_memory, layered_session, session_config, some_tokens
from tests.helpers.tiny_model import TEXT, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def worded_memory() -> MemoryModel:
    return layered_memory(trained=True, vocab_size=300)


class Events:
    """Telemetry provider that keeps its events."""

    def __init__(self) -> None:
        self.events: list = []

    def log_event(self, event) -> None:
        self.events.append(event)

    def close(self) -> None: ...


def test_a_conversation_with_a_document(tmp_path: Path) -> None:
    provider = Events()
    s = layered_session(worded_memory(), session_config(levels=4), hooks=SessionEvents(provider, "x", 0.0))
    (tmp_path / "a.txt").write_text(TEXT * 20)
    *_, last = ingest(s, TOKENIZER, tmp_path / "a.txt", chat=True)
    assert is_whole(last)
    chat = SessionConversation(s, TOKENIZER, Sampling(temperature=1.0, seed=1, max_tokens=60), base=False)
    for _ in range(2):
        assert "".join(piece.text for piece in chat.say("What is the capital?"))
    text = TOKENIZER.decode(s.tree.tokens(0, s.tree.length).tolist())
    assert text.count("What is the capital?") == 2 and text.endswith("<|assistant_end|>")
    assert f"{s.length:,} tokens in {len(s.context)} of {s.budget.most} entries" in describe_focus(s, TOKENIZER)
    view = focus_view(s, with_scores=True)
    assert view["entries"] == len(s.context) and len(view["scores"]) == len(view["spans"]) and json.dumps(view, allow_nan=False)
    kinds = {event.event_type for event in provider.events}
    assert {"focus_allocator", "working_context_snapshot", "mc_tree_snapshot", "inference_update"} <= kinds


def test_every_condition_is_read_within_the_budget() -> None:
    """The oracle has what is needed raw, in the middle of a history that is mostly under gists of level 2."""
    memory, config, tokens = layered_memory(), session_config(), some_tokens(700)
    needed, block = [(300, 305)], 300 // K
    reader = Reader(SessionEval(memory, config, SESSION_CONDITIONS, 1, 1, 1000))
    reader.read(tokens[:400])
    reader.read(tokens[400:])
    opened = dict(reader.open_all(needed))
    assert opened.keys() == {"full", "window", "gists", "lens", "random", "oracle"}
    for condition, (cache, hidden) in opened.items():
        assert hidden.isfinite().all()
        (s,) = cache.memories
        if isinstance(s, LayeredSession):
            lod, start = s.context.tiling
            assert s.length == 700 and len(lod) <= s.budget.most
            raw = np.isin(np.arange(block * K, block * K + K), start[lod == 0]).all()
            assert raw or condition != "oracle"
            assert condition != "gists" or s.figures.edits == 0


def test_costs_and_swap_rates_are_measured(tmp_path: Path) -> None:
    memory, text = layered_memory(), some_tokens(3000)
    rows = measure_cost(memory, session_config(), lambda a, b: text[a:b], [200, 2000], ("ram", "disk"), tmp_path, decode=40)
    for row in rows:
        for name in ("token_ms", "mean_ms", "plain_ms", "score_ms", "plan_ms", "assemble_ms", "gist_ms", "ingest", "refocus_share"):
            assert row[name] > 0, name
    measured = measure_focus(memory, text)
    assert measured is not None and 0 < measured.figures["residency"] <= 1 and measured.figures["refocuses"] > 10


@torch.no_grad()
def test_the_focus_goes_where_the_newest_tokens_look() -> None:
    """The score of a block is that of the untrained choice on the keys of its tokens, whether it is raw or a gist."""
    memory = layered_memory()
    s = layered_session(memory, session_config(400))
    s.append(some_tokens(120))
    raw = s.scores()
    first = s.context.tiling.start.searchsorted([0, 2 * K, 5 * K])
    blocks = raw[first]
    s.context.change(*s.allocator.editor.collapsed(s.context.tiling, first))
    gists = s.scores()[s.context.tiling.lod == 1]
    change = gists - blocks  # of the rest of the softmax
    assert change.std() < 0.25 * blocks.std()


def test_who_asks_for_scores_again_gets_the_same() -> None:
    """Though older queries were compared with a Working Context that has changed since."""
    s = layered_session(layered_memory(trained=True), session_config(60))
    for piece in some_tokens(240).split(5):
        s.append(piece)
    assert s.context.changes > 20 and np.array_equal(s.scores(), s.scores())
