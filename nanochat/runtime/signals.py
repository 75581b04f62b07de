"""Ctrl-C at good moments only."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """A Ctrl-C inside takes effect behind the block; a second one does at once.

    Does nothing where Ctrl-C means something else than `KeyboardInterrupt`, or never comes: outside of the main thread.
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
    """`items`, which a first Ctrl-C does not interrupt while they make the next one."""
    while True:
        with held_back():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


class _Outliving(io.FileIO):
    """A stream that goes nowhere once its reader is gone."""

    def write(self, data: bytes | memoryview) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """From now on this process does not fail where the program that reads its output has ended.

    Ctrl-C ends a `tee` behind a pipe as well; the run must still be able to save itself. Streams that are not the process's
    own, as in tests that capture them, are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and stream is not None:
            stream.flush()
            raw = _Outliving(stream.fileno(), "w", closefd=False)
            lines = name == "stderr" or stream.line_buffering
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=lines))


class StopSignals:
    """SIGTERM and SIGINT as a request to stop at the next good moment; a second SIGINT interrupts at once.

    Processes that this one starts do not see these signals. Ctrl-C and torchrun send them to the whole process group, and the
    compilers that torch.compile is waiting for would die of them and take the run with them.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        # A process starts with the signal mask of the thread that starts it. So they are blocked in this thread, hence in all
        # that it starts, but for one that does nothing but receive them; the handler runs in the main thread all the same.
        self._closed = threading.Event()
        self._receiver = threading.Thread(target=self._closed.wait, name="signals", daemon=True)
        self._receiver.start()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested == "SIGINT" == name:
            raise KeyboardInterrupt
        self.requested = name
        # os.write: print is not safe inside a signal handler. The reader of a pipe may have got the signal as well and be gone.
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: stopping at the next step boundary; the run is saved first\n".encode())

    def __bool__(self) -> bool:
        return self.requested is not None

    def close(self) -> None:
        """Restores the handlers and the mask that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._closed.set()
        self._receiver.join()
