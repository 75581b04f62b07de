"""Ctrl-C at good moments only."""

from __future__ import annotations

import contextlib
import signal
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
