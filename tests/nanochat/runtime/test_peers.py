"""What processes tell each other: texts of any length, and the line that names who differs in what."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat.common import UserError
from nanochat.runtime import peers
from nanochat.runtime.peers import agree, gather, gather_json, ranks_of


def test_a_process_alone_hears_itself() -> None:
    assert gather("é") == ["é"] and gather_json([1, None]) == [[1, None]]
    agree({"seed": 1}, "whatever")


def test_ranks_are_named_in_runs() -> None:
    assert ranks_of([3]) == "rank 3"
    assert ranks_of([1, 8, 9, 10, 12, 13]) == "ranks 1, 8–10, 12–13"


def everyone(*said: tuple[str, dict[str, Any]]) -> Any:
    return lambda value: [list(one) for one in said]


def test_the_first_difference_is_named_with_all_who_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = {"depth": 2, "seed": 1}, {"depth": 2, "seed": 2, "extra": 3}
    monkeypatch.setattr(peers, "gather_json", everyone(("a", same), ("a", same), ("b", other), ("b", other), ("c", {"depth": 2})))
    with pytest.raises(UserError) as raised:
        agree({}, "use one command")
    assert str(raised.value) == "seed differs: ranks 2–3 on b has 2, rank 4 on c has none; rank 0 on a has 1; use one command"
    monkeypatch.setattr(peers, "gather_json", everyone(("a", {}), ("b", {"extra": 0})))
    with pytest.raises(UserError, match="extra differs: rank 1 on b has 0; rank 0 on a has none"):
        agree({}, "use one command")
