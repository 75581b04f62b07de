"""The filter on system calls, run by a small interpreter of its instruction set, and its numbers against the kernel's headers."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from nanochat.sandbox import seccomp
from nanochat.sandbox.seccomp import filter_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


def refuse(error: int) -> int:
    return 0x00050000 | error


def verdict(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """What the kernel would do with a call."""
    data = struct.pack("<iIQQ", number, architecture, 0, argument)
    instructions = list(struct.iter_unpack("<HBBI", program))
    loaded, at = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine, architecture, column", [("x86_64", X86, 0), ("aarch64", ARM, 1)])
def test_what_is_refused_and_what_is_not(machine: str, architecture: int, column: int) -> None:
    program = filter_program(machine)
    refused = {numbers[column] for numbers in seccomp._REFUSED.values()}
    clone, clone3 = (56, 220)[column], 435
    socket, socketpair = (41, 198)[column], (53, 199)[column]
    for number in range(600):
        if number in refused:
            assert verdict(program, architecture, number) == refuse(errno.EPERM)
        elif number not in (clone3, socket, socketpair):
            assert verdict(program, architecture, number) == ALLOW, number
    assert verdict(program, architecture, clone3) == refuse(errno.ENOSYS)
    assert verdict(program, architecture, clone, 0x01200011) == ALLOW  # fork
    assert verdict(program, architecture, clone, 0x3D0F00) == ALLOW  # a thread
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, architecture, clone, namespace | 17) == refuse(errno.EPERM)
    for call in (socket, socketpair):
        assert [verdict(program, architecture, call, family) == ALLOW for family in (1, 2, 10)] == [True] * 3
        assert {verdict(program, architecture, call, family) for family in (0, 16, 17, 38, 40)} == {refuse(errno.EAFNOSUPPORT)}


def test_other_ways_to_make_a_call_are_closed() -> None:
    program = filter_program("x86_64")
    assert verdict(program, 0x40000003, 1) == KILL  # the numbers of 32-bit programs
    assert verdict(program, ARM, 1) == KILL
    assert verdict(program, X86, 0x40000000 | 272) == refuse(errno.ENOSYS)  # x32
    assert verdict(program, X86, 0xFFFFFFFF - (1 << 32)) == refuse(errno.ENOSYS)


def test_a_machine_whose_numbers_are_unknown_has_no_filter() -> None:
    assert filter_program("riscv64") == b""


@pytest.mark.parametrize("header, column", [("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)])
def test_the_numbers_are_the_kernel_s(header: str, column: int) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("no kernel headers here")
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}
    ours = seccomp._REFUSED | {"clone": seccomp._CLONE, "clone3": seccomp._CLONE3}
    ours |= {"socket": seccomp._SOCKET, "socketpair": seccomp._SOCKETPAIR}
    assert {name: both[column] for name, both in ours.items()} == {name: numbers[name] for name in ours}
