"""What hostile code cannot do in the sandbox (nanochat/sandbox/run.py), what it is reported as, that nothing of it stays behind."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.sandbox.isolation import find_backends
from nanochat.sandbox.run import Limits, run_with
from tests.helpers.fake_passes import FAKES
from tests.helpers.hostile import SNIPPETS, Snippet
from tests.helpers.sandbox_host import FIRST_MARK, SECRET, Host, Run, backend_named, check, run_all

ALL = [*SNIPPETS, *FAKES]
# A second backend has its own mounts and its own process 1; the rest of its walls are the same.
NAMES_AGAIN = set(
    """tcp to loopback; abstract unix socket; other interfaces; read a file of the host; write a file of the host; passwords;
    the host through /proc/1; the checkout; the artefacts; the home folder; write to the system; write to the root folder;
    write to the library; climb out; read-only mounts; make the system writable; devices; a full disk; full shared memory;
    an empty folder of its own; the environment; environment of the parent; memory of the parent; kill the parent; stop the parent;
    few processes to see; enter other namespaces; new namespaces; kernel settings; become root; daemon; fork bomb;
    memory of many children; os._exit; search of frames and objects; the own memory; the honest end""".replace("\n    ", " ").split("; ")
)
AGAIN = [snippet for snippet in ALL if snippet.name in NAMES_AGAIN]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    patch = pytest.MonkeyPatch()
    patch.setenv("SANDBOX_CANARY", SECRET)
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        yield host
        host.check()
        for server in host.servers:
            server.close()
    patch.undo()


@pytest.fixture(scope="module")
def with_bubblewrap(host: Host) -> dict[str, Run]:
    return run_all(host, backend_named("bubblewrap"), ALL, FIRST_MARK)


@pytest.fixture(scope="module")
def with_unshare(host: Host) -> dict[str, Run]:
    return run_all(host, backend_named("unshare"), AGAIN, FIRST_MARK + len(ALL))


@pytest.mark.parametrize("snippet", ALL, ids=lambda s: s.name)
def test_hostile_code_in_bubblewrap(snippet: Snippet, with_bubblewrap: dict[str, Run], host: Host) -> None:
    check(snippet, with_bubblewrap[snippet.name], host)


@pytest.mark.parametrize("snippet", AGAIN, ids=lambda s: s.name)
def test_hostile_code_in_unshare(snippet: Snippet, with_unshare: dict[str, Run], host: Host) -> None:
    check(snippet, with_unshare[snippet.name], host)


def test_the_walls_hold_without_the_filter(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose system calls have other numbers there is none."""
    monkeypatch.setattr("nanochat.sandbox.run.filter_program", lambda: b"")
    names = {
        "take a descriptor of the parent", "trace the parent", "read the parent's memory by call", "enter other namespaces", "mount",
        "make the system writable", "unmount", "chroot", "open by handle", "raw socket", "kernel memory", "memory of the parent",
    }  # fmt: skip
    snippets = [snippet for snippet in ALL if snippet.name in names]
    assert len(snippets) == len(names)
    for backend in find_backends():
        runs = run_all(host, backend, snippets, FIRST_MARK)
        for snippet in snippets:
            check(snippet, runs[snippet.name], host)


def test_there_are_enough_snippets() -> None:
    assert len(ALL) >= 60 and len({snippet.name for snippet in ALL}) == len(ALL)
    assert {snippet.name for snippet in AGAIN} == NAMES_AGAIN


def test_the_attempts_work_where_nothing_hinders_them(host: Host) -> None:
    """The snippets would tell: without isolation the harmless ones among them do succeed."""
    for name in ("tcp to loopback", "read a file of the host", "passwords", "the checkout", "abstract unix socket"):
        snippet = next(s for s in ALL if s.name == name)
        before = len(host.connections)
        assert "ESCAPED" in run_with(None, host.fill_in(snippet.code), Limits()).stdout, name
        deadline = time.monotonic() + 5
        while name.startswith(("tcp", "abstract")) and len(host.connections) == before and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(host.connections) == 2
    host.connections.clear()
