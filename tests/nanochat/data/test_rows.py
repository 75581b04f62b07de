"""Rows in which some tokens are not to be learned."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.rows import Loader, count_targets, inputs_and_targets, masked, masked_rows
from nanochat.model.cross_entropy import IGNORE


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=2, max_size=20))
def test_a_complement_is_read_and_not_learned(row: list[tuple[int, bool]]) -> None:
    coded = masked([token for token, _ in row], [learn for _, learn in row])[None].astype(np.int64)
    assert coded.tolist() == [[token if learn else ~token for token, learn in row]]
    tokens, targets = inputs_and_targets(torch.from_numpy(coded))
    assert tokens[0].tolist() == [token for token, _ in row[:-1]]
    assert targets[0].tolist() == [token if learn else IGNORE for token, learn in row[1:]]
    assert count_targets(coded).tolist() == [sum(learn for _, learn in row[1:])]


def test_rows_of_padding_have_no_targets() -> None:
    rows = masked_rows(2, 3, 7)
    tokens, targets = inputs_and_targets(torch.from_numpy(rows.astype(np.int64)))
    assert rows.dtype == np.int32 and tokens.tolist() == [[7] * 3] * 2 and targets.eq(IGNORE).all()


def test_rows_count_alike_unless_their_loader_says_otherwise() -> None:
    class Plain(Loader):
        pass

    assert Plain().weights(0, 4) is None and Plain.ahead > 0
