import math

import numpy as np
import pytest

from nanochat.lab.curve import PowerLaw, RunCurve, extrapolated, fit, r_squared

LAW = PowerLaw(1.0, 30.0, 0.3)
END = 1.5e6


def curve(points: int = 30, noise: float = 0.0, correlation: float = 0.0, seed: int = 0, law: PowerLaw = LAW) -> RunCurve:
    rng = np.random.default_rng(seed)
    t = np.linspace(0.02, 1.0, points) * END
    error = rng.standard_normal(points) * noise
    for i in range(1, points):
        error[i] = correlation * error[i - 1] + math.sqrt(1 - correlation**2) * error[i]
    return RunCurve(t, law.at(t) + error)


def test_measured_lies_between_two_points() -> None:
    c = RunCurve(np.array([100.0, 200.0, 300.0]), np.array([4.0, 3.0, 1.0]))
    assert c.crossing(2.5) == pytest.approx(225.0)
    assert c.crossing(1.0) == 300 and c.crossing(5.0) == 100
    assert c.crossing(0.9) is None and RunCurve(np.array([]), np.array([])).crossing(1.0) is None


def test_the_fit_finds_the_law() -> None:
    c = curve(40)
    law = fit(c.tokens, c.values)
    assert law.floor == pytest.approx(1.0, abs=0.05) and law.exponent == pytest.approx(0.3, abs=0.01)
    assert r_squared(c.values, law.at(c.tokens)) > 0.99999
    assert law.crossing(1.3) == pytest.approx(LAW.crossing(1.3), rel=0.3) and law.crossing(0.5) == math.inf


def test_bounds_of_the_law() -> None:
    t = np.linspace(1.0, 10.0, 20)
    below = fit(t, -1.0 + 3 * t**-0.2)
    assert below.floor >= 0 and below.scale > 0
    rising = fit(t, 1 + 0.1 * t)
    assert rising.scale == 0 and rising.crossing(0.5) == math.inf


@pytest.mark.parametrize("beyond", [1.2, 2.0])
def test_a_curve_without_noise_is_extrapolated_to_its_crossing(beyond: float) -> None:
    found = extrapolated(curve(), float(LAW.at(np.array([beyond * END]))[0]))
    assert found.tokens == pytest.approx(beyond * END, rel=2e-3)
    assert found.low <= found.tokens <= found.high < 1.02 * found.tokens


@pytest.mark.parametrize("noise, correlation", [(0.004, 0.0), (0.004, 0.5)])
def test_the_interval_holds_the_truth_as_often_as_it_says(noise: float, correlation: float) -> None:
    """90 % are promised; with 60 curves 0.78 is three standard errors below."""
    target, truth = float(LAW.at(np.array([1.3 * END]))[0]), 1.3 * END
    found = [extrapolated(curve(24, noise, correlation, seed), target, seed) for seed in range(60)]
    held = [x is not None and x.low <= truth <= x.high for x in found]
    assert np.mean(held) >= 0.78
    assert np.median([x.tokens for x in found if x is not None]) == pytest.approx(truth, rel=0.03)
    width = np.median([x.high / x.low for x in found if x is not None])
    assert 1.02 < width < 1.6  # neither empty nor everything


def test_what_cannot_be_extrapolated() -> None:
    assert extrapolated(curve(), 0.9) is None  # below the floor
    assert extrapolated(curve(6), 1.3) is None  # too few points behind the start
    assert extrapolated(curve(), 1.05) is None  # farther than is believed
