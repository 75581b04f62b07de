"""What /focus says: true figures, every part that stands raw, text that no terminal obeys."""

from __future__ import annotations

import torch

from mc.config import AllocatorConfig, SessionConfig
from mc.session.base_session import session_spec
from mc.session.describe import Span, beginning, describe_focus, opened
from mc.session.session import MCSession
from mc.session.tree import RamTree
from tests.helpers.tiny_memory import tiny_memory
from tests.helpers.tiny_model import TEXT, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def session(length: int) -> MCSession:
    allocator = AllocatorConfig(allocator_expand_threshold=0.0, allocator_collapse_threshold=0.0, allocator_iterations=3)
    config = SessionConfig(mc_session_lod=3, mc_infer_refocus_interval=8, allocator=allocator)
    controller = tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()
    s = MCSession(controller, RamTree(session_spec(controller, config)), config)
    for piece in torch.tensor(TOKENIZER.encode(TEXT * 50)[:length]).split(100):
        s.append(piece)
    return s


def test_what_is_open_is_listed_with_its_words() -> None:
    s = session(3001)
    text, (lod, start) = describe_focus(s, TOKENIZER), s.context.tiling
    assert text.startswith(f"3,001 tokens in {len(lod)} of {s.budget.most} entries, {(lod == 0).sum()} raw, ")
    assert f"{s.figures.refocuses} refocuses with {s.figures.edits} edits" in text and s.figures.edits > 0
    spans, limit = list(opened(s)), (3001 - s.budget.recent) // 8 * 8
    assert spans and all(a.end < b.begin for a, b in zip(spans, spans[1:], strict=False))
    assert {t for span in spans for t in range(span.begin, span.end)} == {
        int(t) for t, level in zip(start, lod, strict=True) if level == 0 and t < limit
    }
    for span in spans[:12]:
        assert f"{span.begin:,} … " in text and beginning(s, TOKENIZER, span) in text
        words = " ".join(TOKENIZER.decode(s.tree.tokens(span.begin, span.end).tolist()).split())
        assert beginning(s, TOKENIZER, span).rstrip("…") == words[: len(beginning(s, TOKENIZER, span).rstrip("…"))]


def test_a_session_of_nothing_or_little() -> None:
    assert describe_focus(session(0), TOKENIZER).startswith("0 tokens in 0 of ")
    s = session(20)
    assert list(opened(s)) == [(0, 8)] and "20 tokens in 20 of" in describe_focus(s, TOKENIZER)


def test_text_that_a_terminal_would_obey_is_shown_harmless() -> None:
    s = session(0)
    s.append(torch.tensor(TOKENIZER.encode("\x1b[2Jb\n\x07o" + "\a\b" * 40)))
    shown = describe_focus(s, TOKENIZER)
    assert beginning(s, TOKENIZER, Span(0, 8)) == "\ufffd[2Jb \ufffdo"
    long = beginning(s, TOKENIZER, Span(0, 80))
    assert long.startswith("\ufffd[2Jb \ufffdo\ufffd\ufffd") and len(long) == 60 and long.endswith("\ufffd…")
    assert not {"\x1b", "\a", "\b"} & set(shown)
    assert max(map(len, shown.splitlines())) < 140
