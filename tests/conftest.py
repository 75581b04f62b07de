"""What all tests share: artefacts go to a temporary folder, nothing is logged in, nothing is drawn on a screen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.common import ROOT

# What a user's shell may hold and a test must not see: keys, endpoints and settings that change what is computed.
PRIVATE = ("WANDB_API_KEY", "HF_TOKEN", "MC_", "OTEL_", "NANOCHAT_", "MODEL_TAG", "WANDB_RUN")


def pytest_configure() -> None:
    """gRPC reads this when it is imported, by a test before the product; its log lines would go to the stderr that tests look at."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment of every test and of the processes it starts; `~/.cache` is never touched."""
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith(PRIVATE):
            patch.delenv(name)
    patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("base")))
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("WANDB_SILENT", "true")
    patch.setenv("MPLBACKEND", "Agg")
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """Signals as a terminal gives them: `nohup … &` hands SIGINT and SIGHUP on as ignored, to the processes that tests start too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty artefact folder of the test's own."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
