"""The host as hostile code may touch it: files, a secret, servers, processes; and how such code is run and judged."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanochat.common import ROOT
from nanochat.sandbox.isolation import IsolationBackend, find_backends
from nanochat.sandbox.run import Execution, Limits, run_with
from tests.helpers.hostile import Snippet

SECRET = "c4nary-" + os.urandom(8).hex()
# A number of open files that only one run has: by it, its processes are found in the host's /proc. Workers of pytest-xdist differ by more
# than there are snippets.
FIRST_MARK = 300 + 250 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


class Host:
    """What an escape would touch: files, a variable, servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "canary").write_text(SECRET)
        self.connections: list[str] = []
        self.abstract = f"nanochat-{os.getpid()}"
        self.servers = [
            self._serve(socket.AF_INET, ("0.0.0.0", 0)),
            self._serve(socket.AF_UNIX, str(folder / "socket")),
            self._serve(socket.AF_UNIX, "\0" + self.abstract),
        ]
        self.files = sorted(folder.iterdir())
        self.address = next((a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.1")

    def _serve(self, family: int, address: tuple[str, int] | str) -> socket.socket:
        server = socket.socket(family)
        server.bind(address)
        server.listen(64)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        return server

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            self.connections.append(repr(address))
            connection.close()

    def fill_in(self, code: str) -> str:
        words = {
            "FOLDER": str(self.folder),
            "PORT": str(self.servers[0].getsockname()[1]),
            "ADDRESS": self.address,
            "ABSTRACT": self.abstract,
            "CHECKOUT": str(ROOT),
            "BASE": os.environ["NANOCHAT_BASE_DIR"],
            "HOME": str(Path.home()),
            "PID": str(os.getpid()),
            "CANARY": SECRET,
        }
        for word, value in words.items():
            code = code.replace(f"@{word}@", value)
        return code

    def check(self) -> None:
        assert (self.folder / "canary").read_text() == SECRET
        assert sorted(self.folder.iterdir()) == self.files
        assert self.connections == []


@dataclasses.dataclass
class Run:
    execution: Execution
    survivors: list[str]


def processes_with_mark(mark: int) -> list[str]:
    """Command lines of processes that may have `mark` open files, zombies left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = next(line for line in (folder / "limits").read_text().splitlines() if line.startswith("Max open files"))
            if line.split()[4] == str(mark) and ") Z " not in (folder / "stat").read_text():
                found.append(f"{folder.name} {(folder / 'cmdline').read_bytes()[:60]!r}")
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            continue
    return found


def run_all(host: Host, backend: IsolationBackend, snippets: Sequence[Snippet], first_mark: int) -> dict[str, Run]:
    """Each snippet in a sandbox of its own, several at a time."""

    def one(numbered: tuple[int, Snippet]) -> Run:
        number, snippet = numbered
        limits = Limits(seconds=snippet.seconds, open_files=first_mark + number)
        result = run_with(backend, host.fill_in(snippet.code), limits)
        return Run(result, processes_with_mark(limits.open_files))

    with ThreadPoolExecutor(8) as pool:
        return dict(zip((s.name for s in snippets), pool.map(one, enumerate(snippets)), strict=True))


def backend_named(name: str) -> IsolationBackend:
    found = {backend.name: backend for backend in find_backends()}
    if name not in found:
        pytest.skip(f"no {name} here")
    return found[name]


def check(snippet: Snippet, run: Run, host: Host) -> None:
    result = run.execution
    shown = result.stdout + result.stderr
    assert result.outcome in snippet.outcome.split("|"), (result.outcome, result.exit_code, shown[-600:])
    assert "ESCAPED" not in shown
    assert SECRET not in shown
    assert snippet.shown in shown, shown[-600:]
    if snippet.exit_code is not None:
        assert result.exit_code == snippet.exit_code
    assert run.survivors == []
    host.check()
