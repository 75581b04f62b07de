"""Process that starts worker processes for another one, whose threads forbid it to fork.

It is forked before there are threads, and forks a worker for each socket that it is sent. When its owner closes the line, or ends,
it waits for the workers, kills those that do not end, and ends.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

END_SECONDS = 10.0  # how long a worker may take to end before it is killed
REAP_SECONDS = 0.5  # between two looks at workers that have ended

Work = Callable[[int, socket.socket], int]  # main of a worker: its index and its end of a socket pair; returns the exit code


class Spawner:
    """The owner's side. Must be made before the process has threads or a CUDA context."""

    def __init__(self, work: Work) -> None:
        self._line, theirs = socket.socketpair()
        self._asking = threading.Lock()
        self._pid = os.fork()
        if self._pid == 0:
            self._line.close()
            _forked(lambda: _spawn(theirs, work), "spawner")
        theirs.close()

    def start(self, index: int) -> tuple[int, socket.socket]:
        """Starts worker `index`; returns its process id and the socket to it. Raises `OSError` if the spawner has ended."""
        ours, theirs = socket.socketpair()
        with self._asking, theirs:
            try:
                socket.send_fds(self._line, [json.dumps(index).encode() + b"\n"], [theirs.fileno()])
                answer = self._line.recv(64)
                if not answer:
                    raise ConnectionError("the process that starts workers has ended")
            except OSError:
                ours.close()
                raise
        return int(answer), ours

    def close(self) -> None:
        """Waits until all workers have ended, whose sockets must be closed."""
        with self._asking:
            self._line.close()
        os.waitpid(self._pid, 0)


def _forked(main: Callable[[], int], name: str) -> NoReturn:
    """Runs a forked process to its end. It never returns: the parent's stack is above it, whose cleanup is not its own."""
    code = 1
    try:
        code = main()
    except BaseException as error:
        print(f"{name}: {' '.join(f'{type(error).__name__}: {error}'.split())}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)  # taking a model down piece by piece would take long


def _spawn(line: socket.socket, work: Work) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the owner decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pids: set[int] = set()
    while True:
        readable, _, _ = select.select([line], [], [], REAP_SECONDS)
        _reap(pids)
        if readable:
            message, files, _, _ = socket.recv_fds(line, 64, 1)
            if not message:
                break
            link = socket.socket(fileno=files[0])
            pid = os.fork()
            if pid == 0:
                line.close()
                index = json.loads(message)
                _forked(functools.partial(work, index, link), f"worker {index}")
            link.close()
            pids.add(pid)
            line.sendall(str(pid).encode())
    deadline = time.monotonic() + END_SECONDS
    while pids:
        if time.monotonic() > deadline:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        _reap(pids)
    return 0


def _reap(pids: set[int]) -> None:
    """Takes note of workers that have ended."""
    for pid in list(pids):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            pids.remove(pid)
