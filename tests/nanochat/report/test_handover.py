"""The data in the hand-over part: what the splits hold, and what was left out."""

from __future__ import annotations

from pathlib import Path

from nanochat.report.compose import compose
from nanochat.report.sections import collect, section

HELD = {"files": 1, "documents": 1200, "bytes": 34567, "tokens": 8901}


def text(left_out: list[dict] | None) -> str:
    splits = {} if left_out is None else {"splits": {"train": HELD, "val": HELD}, "left_out": left_out}
    section("data", {"dataset": "local", "fingerprint": "f" * 16, **splits})
    return compose(collect()).text


def test_splits_and_what_was_left_out(base: Path) -> None:
    lost = {"what": "file", "why": "test split", "count": 1, "first": ["a|b.jsonl"]}
    more = {"what": "document", "why": "empty", "count": 1234, "first": ["c.jsonl", "d.jsonl"]}
    shown = text([lost, more])
    assert "| train | 1 | 1,200 | 34,567 | 8,901 |" in shown and shown.count("34,567") == 2, "once for each split"
    assert "| 1 file | test split | a\\|b.jsonl |" in shown and "| 1,234 documents | empty | c.jsonl, d.jsonl |" in shown
    assert "Nothing was left out." in text([])


def test_data_of_earlier_versions(base: Path) -> None:
    shown = text(None)
    assert "| dataset | local |" in shown and "left out" not in shown
