"""Seccomp filter (classic BPF) of the system calls that code in the sandbox may not make.

The namespaces are the main barrier; this blocks what they do not cover (kernel keyrings, vsock, memory that no limit counts, locks
and watches on the system's files) and the parts of the kernel most used to escape (new user namespaces, mounts, ptrace, bpf, io_uring).
Numbers are from the kernel's `unistd_64.h` and `asm-generic/unistd.h`, the instruction set from `linux/filter.h`.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys

# (audit architecture, column of the numbers below) by machine.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_REFUSED = {
    # other namespaces, other roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # memory that outlives its mapping and that no limit of the sandbox counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "semget": (64, 190),
    # what the host does with the files that both see
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    # the rest of the kernel
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
}
_REFUSED_X86 = {"inotify_init": 253}  # calls that other machines do not have
_CLONE, _CLONE3 = (56, 220), (435, 435)
_FLOCK, _FCNTL, _SETSOCKOPT = (73, 32), (72, 25), (54, 208)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: each bound to the network namespace, as AF_VSOCK is not
# A lock works on a file that is open for reading only, so the system's files cannot be told from the run's own.
_LOCK_COMMANDS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW
_WATCH_COMMANDS = (1024, 1026)  # F_SETLEASE, F_NOTIFY
_SOL_SOCKET, _SEND_BUFFERS = 1, (7, 32)  # SO_SNDBUF, SO_SNDBUFFORCE: the supervisor counts each socket with the default
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_X32_CALLS = 0x40000000  # the second set of numbers that x86_64 kernels may know

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, (16, 24, 32)  # in struct seccomp_data; of arguments the lower word
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def filter_program(machine: str = "") -> bytes:
    """Filter as an array of `struct sock_filter` (8 bytes each), for `machine`, by default this one.

    Empty for an unknown machine; the sandbox then relies on its namespaces alone.
    """
    known = _MACHINES.get(machine or platform.machine())
    if known is None or sys.byteorder != "little":
        return b""
    architecture, column = known
    body = [(_LOAD, 0, 0, _NUMBER_AT)]
    if column == 0:
        body += _refuse_if(_AT_LEAST, _X32_CALLS, errno.ENOSYS)
    for numbers in _REFUSED.values():
        body += _refuse_if(_EQUAL, numbers[column], errno.EPERM)
    if column == 0:
        for number in _REFUSED_X86.values():
            body += _refuse_if(_EQUAL, number, errno.EPERM)
    # The flags of clone3 are behind a pointer, which a filter cannot follow; without it the C library uses clone.
    body += _refuse_if(_EQUAL, _CLONE3[column], errno.ENOSYS)
    body += _refuse_if(_EQUAL, _FLOCK[column], errno.ENOLCK)
    body += _for_call(_CLONE[column], [_argument(0), *_refuse_if(_ANY_BIT, _NEW_NAMESPACES, errno.EPERM)])
    commands = [_argument(1)]
    for values, error in ((_LOCK_COMMANDS, errno.ENOLCK), (_WATCH_COMMANDS, errno.EPERM)):
        for value in values:
            commands += _refuse_if(_EQUAL, value, error)
    body += _for_call(_FCNTL[column], commands)
    options = [_argument(1), (_EQUAL, 1, 0, _SOL_SOCKET), (_RETURN, 0, 0, _ALLOW), _argument(2)]
    for value in _SEND_BUFFERS:
        options += _refuse_if(_EQUAL, value, errno.EPERM)
    body += _for_call(_SETSOCKOPT[column], options)
    family = [_argument(0)]
    for allowed in _SOCKET_FAMILIES:
        family += [(_EQUAL, 0, 1, allowed), (_RETURN, 0, 0, _ALLOW)]
    family.append((_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT))
    body += [(_EQUAL, 1, 0, _SOCKET[column]), (_EQUAL, 0, len(family), _SOCKETPAIR[column]), *family]
    body.append((_RETURN, 0, 0, _ALLOW))
    start = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in start + body)


def _argument(index: int) -> tuple[int, int, int, int]:
    """Instruction: loads an argument of the call."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT[index])


def _for_call(number: int, checks: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Instructions: the call `number` is allowed unless one of `checks` refuses it."""
    checks = [*checks, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(checks), number), *checks]


def _refuse_if(comparison: int, value: int, error: int) -> list[tuple[int, int, int, int]]:
    """Instructions: the call fails with `error` if the loaded word compares to `value`."""
    return [(comparison, 0, 1, value), (_RETURN, 0, 0, _FAIL | error)]
