"""Fixtures for tests that start real training processes; see `bench.tiny_run`.

    def test_x(home: Home) -> None:
        assert home.train("--num-iterations=3").code == 0
        assert home.metrics()[-1]["step"] == 3

Import `warm`, `corpus` and `home` (and `alone`) into the conftest.py of the folder that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tiny_run import Home, make_corpus, new_home
from bench.warm_start import WarmStart


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmStart]:
    """Processes that start at once."""
    with WarmStart() as started:
        yield started


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus."""
    return make_corpus(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def home(tmp_path: Path, corpus: Path, warm: WarmStart) -> Home:
    """An artefact folder of the test's own."""
    return new_home(tmp_path / "base", corpus, warm)


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: WarmStart) -> Home:
    """The run with the `FLAGS` of the module in a single process. Not to be changed."""
    home = new_home(tmp_path_factory.mktemp("alone") / "base", corpus, warm)
    assert home.train(*request.module.FLAGS).code == 0
    return home
