"""Ctrl-C when it does no harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from nanochat.runtime.signals import between, held_back


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        press_ctrl_c()
        done.append(1)
    assert done == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with held_back():
        pass  # the one before is over
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


def test_a_second_one_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        press_ctrl_c()
        press_ctrl_c()
        pytest.fail("it went on")


def test_an_error_inside_is_not_lost_where_none_was_pressed() -> None:
    with pytest.raises(ValueError, match="mine"), held_back():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_within_blocks() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        with held_back():
            press_ctrl_c()
        done.append(1)
    assert done == [1]


def test_items_are_made_whole() -> None:
    made, seen = [], []

    def items() -> Iterator[int]:
        for i in range(5):
            if i == 2:
                press_ctrl_c()
            made.append(i)
            yield i

    with pytest.raises(KeyboardInterrupt):
        for item in between(items()):
            seen.append(item)
    assert made == [0, 1, 2] and seen == [0, 1]
    assert list(between(iter("ab"))) == ["a", "b"]


def test_other_threads_and_other_handlers_are_left_alone() -> None:
    heard = []
    previous = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with held_back():
            press_ctrl_c()
            assert heard == [1]
    finally:
        signal.signal(signal.SIGINT, previous)

    def elsewhere() -> None:
        with held_back():
            heard.append(2)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert heard == [1, 2]
