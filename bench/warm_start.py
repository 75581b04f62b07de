"""Fork server that starts scripts in processes of their own without importing torch each time.

`WarmStart` runs a server (this module, as a script) that has imported the scripts' dependencies and forks for every start. The
child runs the script as `python -m` does, with its own process group, environment, standard streams, signals and exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from nanochat.common import ROOT

SCRIPT = "scripts.base_train"
PRELOADED = (SCRIPT, "torch._dynamo")  # the latter comes with the first operation on a meta tensor
POLL_SECONDS = 0.003


@dataclass
class Process:
    """Started script. `wait` returns its exit code, or minus the signal that killed it."""

    server: WarmStart
    pid: int
    folder: Path
    code: int | None = None

    @property
    def stdout(self) -> str:
        """Output so far."""
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid})
        return self.code

    def wait(self, timeout_seconds: float = 60.0) -> int:
        """Waits for the end."""
        self.until(lambda: self.poll() is not None, timeout_seconds)
        assert self.code is not None
        return self.code

    def until(self, condition: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
        """Waits until `condition()` holds. Raises `AssertionError` if the process ends before, or the time is up."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            ended = self.poll() is not None
            if ended and not condition():
                raise AssertionError(f"the process ended with {self.code} too early:\n{self.stdout}\n{self.stderr}")
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing came of it in {timeout_seconds} s:\n{self.stdout}\n{self.stderr}")
            time.sleep(POLL_SECONDS)

    def signal(self, number: int) -> None:
        """Sends a signal; does nothing once the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


@dataclass
class WarmStart:
    """Client of the server; a context manager that ends all processes it started."""

    running: list[Process] = field(default_factory=list)

    def __enter__(self) -> WarmStart:
        self._folder = tempfile.TemporaryDirectory()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "bench.warm_start"], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.running:
            process.signal(signal.SIGKILL)
        self._server.kill()  # rather than let it take torch down, which lasts seconds
        self._server.communicate()
        self._folder.cleanup()

    def start(self, module: str, argv: Sequence[str], environment: Mapping[str, str], file_size_limit: int | None = None) -> Process:
        """Runs `python -m module argv…`. `environment` is added to this process's; files cannot grow beyond `file_size_limit` bytes."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        request = {"module": module, "argv": list(argv), "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment}}
        pid = self.ask({**request, "folder": str(folder), "file_size_limit": file_size_limit})
        self.running.append(Process(self, pid, folder))
        return self.running[-1]

    def ask(self, request: dict[str, Any]) -> Any:
        """Answer of the server."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        assert line, f"the server has ended with {self._server.wait()}"
        return json.loads(line)


def serve() -> None:
    """Answers `{"poll": pid}` with an exit code or null and every other request, a start, with the new process's id."""
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in PRELOADED:
        importlib.import_module(module)
    del sys.modules[SCRIPT]  # the child runs it anew, as __main__
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            for out in ("stdout", "stderr"):
                (Path(request["folder"]) / out).touch()
            answer = os.fork()
            if answer == 0:
                requests.close()
                os.close(answers.fileno())
                become(request)
        print(json.dumps(answer), file=answers, flush=True)


def become(request: dict[str, Any]) -> NoReturn:
    """Turns this fresh child into the script and exits with it."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, out in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(request["folder"]) / out, os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["file_size_limit"] is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]  # the test may lift the limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size_limit"], hard))
    sys.argv = [request["module"], *request["argv"]]
    code = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking torch down module by module would take seconds: every page is shared with the server


if __name__ == "__main__":
    serve()
