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


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do with a call."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
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
    refused |= set() if column else set(seccomp._REFUSED_X86.values())
    clone, clone3, flock = (56, 220)[column], 435, (73, 32)[column]
    socket, socketpair = (41, 198)[column], (53, 199)[column]
    for number in range(600):
        if number in refused:
            assert verdict(program, architecture, number) == refuse(errno.EPERM)
        elif number not in (clone3, socket, socketpair, flock):
            assert verdict(program, architecture, number) == ALLOW, number
    assert verdict(program, architecture, clone3) == refuse(errno.ENOSYS)
    assert verdict(program, architecture, clone, 0x01200011) == ALLOW  # fork
    assert verdict(program, architecture, clone, 0x3D0F00) == ALLOW  # a thread
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, architecture, clone, namespace | 17) == refuse(errno.EPERM)
    for call in (socket, socketpair):
        assert [verdict(program, architecture, call, family) == ALLOW for family in (1, 2, 10)] == [True] * 3
        assert {verdict(program, architecture, call, family) for family in (0, 16, 17, 38, 40)} == {refuse(errno.EAFNOSUPPORT)}


@pytest.mark.parametrize("machine, architecture, column", [("x86_64", X86, 0), ("aarch64", ARM, 1)])
def test_locks_watches_and_socket_buffers(machine: str, architecture: int, column: int) -> None:
    program = filter_program(machine)
    flock, fcntl, setsockopt = ((73, 32), (72, 25), (54, 208))
    assert verdict(program, architecture, flock[column], 9, 2) == refuse(errno.ENOLCK)
    results = {command: verdict(program, architecture, fcntl[column], 3, command) for command in range(2048)}
    assert {command for command, result in results.items() if result == refuse(errno.ENOLCK)} == {6, 7, 37, 38}
    assert {command for command, result in results.items() if result == refuse(errno.EPERM)} == {1024, 1026}
    assert all(result == ALLOW for command, result in results.items() if command not in (6, 7, 37, 38, 1024, 1026))
    assert verdict(program, architecture, fcntl[column], 3, (1 << 32) | 6) == refuse(errno.ENOLCK)  # the kernel drops the upper half
    options = {(level, option) for level in (0, 1, 6) for option in range(64)}
    allowed = {pair for pair in options if verdict(program, architecture, setsockopt[column], 3, *pair) == ALLOW}
    assert options - allowed == {(1, 7), (1, 32)}


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
    ours |= {"flock": seccomp._FLOCK, "fcntl": seccomp._FCNTL, "setsockopt": seccomp._SETSOCKOPT}
    if column == 0:
        ours |= {name: (number, number) for name, number in seccomp._REFUSED_X86.items()}
    ours |= {"socket": seccomp._SOCKET, "socketpair": seccomp._SOCKETPAIR}
    assert {name: both[column] for name, both in ours.items()} == {name: numbers[name] for name in ours}
