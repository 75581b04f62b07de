"""Deferred signals: Ctrl-C after critical sections, stop requests at step boundaries."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Defers a Ctrl-C inside the block until its end; a second one interrupts at once.

    Does nothing outside the main thread, or if Ctrl-C does not raise `KeyboardInterrupt`.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pending = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal pending
        if pending:
            raise KeyboardInterrupt
        pending = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pending:
            raise KeyboardInterrupt


def between(items: Iterator[Item]) -> Iterator[Item]:
    """Yields from `items`; a first Ctrl-C does not interrupt the computation of an item."""
    while True:
        with held_back():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


class StopSignals:
    """SIGTERM and SIGINT as a request to stop at the next step boundary; a second SIGINT interrupts at once.

    Child processes do not see these signals: Ctrl-C and torchrun send them to the whole process group, which would kill the
    compilers that torch.compile is waiting for, and the run with them.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        # Children inherit the signal mask of the thread that starts them. So the signals are blocked in this thread, and another one
        # receives them; the handler runs in the main thread all the same.
        self._closed = threading.Event()
        self._receiver = threading.Thread(target=self._closed.wait, name="signals", daemon=True)
        self._receiver.start()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested == "SIGINT" == name:
            raise KeyboardInterrupt
        self.requested = name
        # os.write: print is not safe in a signal handler. The reader of a pipe may have ended by the same signal.
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: stopping at the next step boundary; the run is saved first\n".encode())

    def __bool__(self) -> bool:
        return self.requested is not None

    def close(self) -> None:
        """Restores the previous handlers and mask."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._closed.set()
        self._receiver.join()
