"""Verdicts on a lost process, from the notes that the others left; tests of base_train lose real ones."""

from __future__ import annotations

import socket
import threading

import pytest
import torch.distributed as dist

from nanochat.common import UserError
from nanochat.runtime import lost_peer
from nanochat.runtime.lost_peer import Note, PeerWatch, failed_collective


def test_errors_of_collective_operations_are_known_by_where_they_arise() -> None:
    with pytest.raises(TypeError) as raised:
        dist.all_gather([], None)
    assert failed_collective(raised.value) is None, "a mistake of the caller, not a lost connection"
    assert failed_collective(RuntimeError("out of memory")) is None
    with pytest.raises(RuntimeError) as lost:
        _raise_in_torch()
    assert failed_collective(lost.value).startswith("all_reduce (test_lost_peer.py:")


def _raise_in_torch() -> None:
    exec(
        compile("def all_reduce():\n    raise RuntimeError('Connection closed by peer')", "c10d.py", "exec"),
        names := {"__name__": dist.distributed_c10d.__name__},
    )
    names["all_reduce"]()


@pytest.mark.parametrize(
    ("notes", "verdict"),
    [
        ({1: Note("failed", "no tokenizer")}, r"^rank 1 on b failed while this process waited for it in .*: no tokenizer; then run again"),
        ({1: Note("broke", "x")}, r"^rank 2 on b died while this process waited for it in all_reduce \(test_lost_peer.py:"),
        ({}, r"^ranks 1–2 on b died while"),
        ({1: Note("timed out", "x")}, r"^rank 2 on b did not come to all_reduce .* within 7 s; "),
        ({1: Note("broke", "x"), 2: Note("broke", "y")}, r"^the connection .*rank 1 on b in x, rank 2 on b in y; run again"),
    ],
)
def test_verdicts(notes: dict[int, Note], verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_peer, "GRACE_SECONDS", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        store = dist.HashStore()
        threads = []
        for rank, note in notes.items():
            watch = PeerWatch(store, rank, ["a", "b", "b"], 7)
            threads.append(threading.Thread(target=watch._leave, args=(note,)))
            threads[-1].start()
        with pytest.raises(UserError, match=verdict), PeerWatch(store, 0, ["a", "b", "b"], 7):
            _raise_in_torch()
        for thread in threads:
            thread.join()


def test_other_errors_and_single_processes_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="Connection closed"), PeerWatch(None, 0, [], 7):
        _raise_in_torch()
    with PeerWatch(None, 0, [], 7):
        pass
