import math

import numpy as np
import pytest

from nanochat.lab.statistics import compare, t_quantile

# Student's t, from the tables.
TABLE = [
    (0.975, 1, 12.7062),
    (0.975, 2, 4.3027),
    (0.99, 2, 6.9646),
    (0.975, 3, 3.1824),
    (0.995, 4, 4.6041),
    (0.99, 16, 2.5835),
    (0.95, 7, 1.8946),
]


@pytest.mark.parametrize("probability, freedom, value", TABLE)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("probability, freedom", [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_no_such_quantile(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="invalid quantile"):
        t_quantile(probability, freedom)


def test_one_candidate_is_the_paired_t_test() -> None:
    theirs, ours = [1.0, 2.0, 4.0, 3.0], [1.5, 2.2, 4.9, 3.3]
    found = compare({"b": theirs, "c": ours}, "c", "b", level=0.025)
    differences = np.subtract(ours, theirs)
    half = 3.1824 * differences.std(ddof=1) / 2
    assert (found.mean, found.freedom) == (pytest.approx(differences.mean()), 3)
    assert (found.low, found.high) == (pytest.approx(found.mean - half, abs=1e-4), pytest.approx(found.mean + half, abs=1e-4))
    assert found.always_positive and not compare({"b": theirs, "c": ours}, "b", "c").always_positive


def test_others_of_the_sweep_sharpen_the_noise_and_many_candidates_widen_the_bounds() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=3)
    table = {f"c{i}": list(seeds + 0.1 * rng.normal(size=3)) for i in range(9)}
    alone = compare({n: table[n] for n in ("c0", "c1")}, "c1", "c0")
    among = compare(table, "c1", "c0")
    assert among.freedom == 16 and among.high - among.low < alone.high - alone.low
    assert compare(table, "c1", "c0", among=8).low < among.low


def test_a_noisy_candidate_keeps_its_own_noise() -> None:
    quiet = {f"c{i}": [1.0, 1.001, 0.999] for i in range(8)}
    wild = compare(quiet | {"w": [1.0, 3.0, 2.0]}, "w", "c0")
    assert wild.high - wild.low > 2 * np.std([0.0, 1.999, 1.001], ddof=1) * t_quantile(0.99, 16) / math.sqrt(3) * 0.99


def test_noise_stays_below_the_level() -> None:
    rng = np.random.default_rng(1)
    found = [compare({"b": list(rng.normal(size=3)), "c": list(rng.normal(size=3))}, "c", "b", level=0.1).low > 0 for _ in range(2000)]
    assert 0.07 < np.mean(found) < 0.12


def test_one_seed_compares_nothing() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        compare({"a": [1.0], "b": [2.0]}, "a", "b")
