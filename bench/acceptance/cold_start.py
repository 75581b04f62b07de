"""Scripts as users start them, each in an interpreter of its own, behind the interface of `bench.warm_start`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.warm_start import WarmStart
from nanochat.common import ROOT


class ColdStart(WarmStart):
    """Starts `python -m` anew every time: a process that was forked from another may not use CUDA. One that is killed has printed all."""

    def __enter__(self) -> ColdStart:
        self._folder = tempfile.TemporaryDirectory()
        self._started: dict[int, subprocess.Popen] = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._started.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self._folder.cleanup()

    def ask(self, request: dict[str, Any]) -> Any:
        """The exit code of a process that is polled, or the id of one that is started."""
        if "poll" in request:
            return self._started[request["poll"]].poll()
        folder = Path(request["folder"])
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", request["module"], *request["argv"]],
                cwd=ROOT, env=request["environment"] | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        self._started[process.pid] = process
        return process.pid
