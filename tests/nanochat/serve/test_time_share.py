"""The time of rows and of documents, on a clock that the test winds."""

from __future__ import annotations

import pytest

from nanochat.serve.time_share import ALONE_SECONDS, PIECE_SECONDS, TimeShare


@pytest.mark.parametrize("token_seconds", [0.001, 0.02, 0.3])
def test_rows_keep_two_thirds_of_their_speed(monkeypatch: pytest.MonkeyPatch, token_seconds: float) -> None:
    now = 0.0
    monkeypatch.setattr("nanochat.serve.time_share.time.monotonic", lambda: now)
    share, pieces = TimeShare(), 0
    share.busy = True
    for _ in range(1000):
        share.begin()
        now += token_seconds
        share.decoded()
        if share.may_read:
            share.begin()
            now += PIECE_SECONDS
            share.read()
            pieces += 1
    assert share.seconds() == PIECE_SECONDS < ALONE_SECONDS
    assert now <= 1.5 * 1000 * token_seconds + PIECE_SECONDS
    assert pieces >= 0.8 * min(1000, 500 * token_seconds / PIECE_SECONDS)  # and documents get the rest


def test_without_rows_documents_have_all_of_it() -> None:
    share = TimeShare()
    share.begin()
    share.read()
    assert share.may_read and share.seconds() == ALONE_SECONDS
