"""Paired comparisons: against the textbook, row by row."""

from __future__ import annotations

import math

import pytest
import torch

from mc.eval.paired_stats import Estimate, compare_rows


def losses(rows: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hard = 4 + torch.randn(rows, generator=generator)  # common to all conditions of a row
    noise = {name: 0.05 * torch.randn(rows, generator=generator) for name in ("full", "window", "lens")}
    return {"full": hard + noise["full"], "window": hard + 0.3 + noise["window"], "lens": hard + 0.1 + noise["lens"]}


def test_differences_are_paired() -> None:
    rows = losses()
    compared = compare_rows(rows)
    for condition in ("lens", "window"):
        difference = (rows[condition] - rows["full"]).double()
        expected = (difference.mean().item(), difference.std().item() / math.sqrt(len(difference)))
        assert tuple(compared.delta_nll(condition)) == pytest.approx(expected, rel=1e-9)
    mean = rows["lens"].double()
    assert tuple(compared.mean("lens")) == pytest.approx((mean.mean().item(), mean.std().item() / math.sqrt(len(mean))), rel=1e-9)
    assert compared.delta_nll("lens").error < 0.1 * compared.mean("lens").error
    assert tuple(compared.difference("lens", "window"))[0] == pytest.approx((rows["lens"] - rows["window"]).double().mean().item())
    assert compared.rows == 40


def test_recovery_is_a_share_with_the_error_of_many_drawings() -> None:
    compared = compare_rows(losses())
    recovery = compared.recovery("lens")
    gain = compared.difference("window", "full").value
    assert recovery.value == pytest.approx(compared.difference("window", "lens").value / gain)
    drawn = torch.tensor([compare_rows(losses(seed=seed)).recovery("lens").value for seed in range(400)])
    assert drawn.mean().item() == pytest.approx(2 / 3, abs=0.01)
    errors = [compare_rows(losses(seed=seed)).recovery("lens").error for seed in range(20)]
    assert sum(errors) / len(errors) == pytest.approx(drawn.std().item(), rel=0.15)
    assert tuple(compared.recovery("full")) == pytest.approx((1.0, 0.0), abs=1e-9)
    assert tuple(compared.recovery("window")) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_rows_of_a_group_count_as_often_as_they_are_alike() -> None:
    rows = losses(20)
    twice = {name: values.repeat_interleave(2) for name, values in rows.items()}
    alone, grouped = compare_rows(rows), compare_rows(twice, torch.arange(20).repeat_interleave(2) * 7 + 3)
    assert grouped.rows == 40
    assert tuple(grouped.recovery("lens")) == pytest.approx(tuple(alone.recovery("lens")), rel=1e-9)
    assert compare_rows(twice).delta_nll("lens").error < 0.75 * alone.delta_nll("lens").error


def test_what_is_not_defined_is_not_a_number() -> None:
    one = {"full": torch.tensor([1.0]), "window": torch.tensor([1.0])}
    assert math.isnan(compare_rows(one).delta_nll("window").error)
    assert math.isnan(compare_rows(one).recovery("window").value)
    with pytest.raises(ValueError, match="no row has a target"):
        compare_rows({"full": torch.zeros(0), "window": torch.zeros(0)})
    assert str(Estimate(0.12345, 0.01)) == "0.1235 ± 0.0100"
