"""Runs Python code of a model in isolation; `run_python` is the interface.

The code gets a fresh interpreter in its own namespaces (`isolation`), with a supervisor (`child`), a filter of system calls
(`seccomp`), limits, no network, no environment and an empty temporary working directory. For the guarantees see
obsidian/Sandbox.md.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import IO, Any, Literal

from nanochat.common import UserError
from nanochat.sandbox.isolation import IsolationBackend, Mount, find_backends, visible_files
from nanochat.sandbox.process import START_SECONDS, Started, start, stop
from nanochat.sandbox.seccomp import filter_program

Outcome = Literal["ok", "error", "timeout", "memory", "killed", "output_limit"]

MIB = 1 << 20
RESERVE_BYTES = 16 * MIB  # of address space after a MemoryError, to report it
MIN_MEMORY_MIB = 64  # for Python itself to start
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Limits:
    """Resource limits of one run. Raises `ValueError` for values with which no run is possible."""

    seconds: float = 5.0
    """Wall clock from the start of the code, without the start of the sandbox."""
    memory_mib: int = 256
    """Address space of each process, and memory of all of them together."""
    output_bytes: int = 16384
    """Of standard output, and as many of standard error; more output ends the run."""
    processes: int = 16
    """Processes and threads at a time."""
    disk_mib: int = 32
    """Size of the working directory, of /dev/shm and of a single file; removed after the run."""
    open_files: int = 128
    """Descriptors of a process."""

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise ValueError(f"seconds must be positive and finite, not {self.seconds}")
        if self.memory_mib < MIN_MEMORY_MIB:
            raise ValueError(f"memory_mib must be at least {MIN_MEMORY_MIB}, not {self.memory_mib}")
        for name, least in (("output_bytes", 1), ("processes", 1), ("disk_mib", 1), ("open_files", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Execution:
    """Result of a run.

    `outcome` is "ok" if the code ran to its last line and the interpreter exited with code 0; "error" after an exception or any
    earlier exit, including `sys.exit(0)` and `os._exit(0)`; "timeout", "memory" and "output_limit" after a limit; "killed" after
    a signal. `exit_code` is the interpreter's, negative for a signal, None if the run was ended from outside.
    `seconds` is the wall clock of the code. What was printed until the end is in `stdout` and `stderr` in every case.
    """

    outcome: Outcome
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float


def isolation() -> str:
    """Available isolation: "bubblewrap" or "unshare". The first call tests it, in about 0.1 s.

    Raises `UserError` if neither works.
    """
    return _backend().name


def run_python(code: str, limits: Limits = Limits(), stdin: str = "", unsafe: bool = False) -> Execution:  # noqa: B008 (frozen)
    """Runs `code` as a program until it and all its processes have ended. May be called from many threads at once.

    With `unsafe` the code runs as an ordinary process of this user, with limits but without isolation, and a warning is printed.
    Raises `UserError` if isolation is not available and `unsafe` is False.
    """
    if unsafe:
        _warn_of_unsafe_runs()
        return run_with(None, code, limits, stdin)
    return run_with(_backend(), code, limits, stdin)


def run_with(backend: IsolationBackend | None, code: str, limits: Limits, stdin: str = "") -> Execution:
    """`run_python` with the isolation of `backend`; None is no isolation. Raises `UserError` if the sandbox does not start."""
    if sys.platform != "linux":
        raise UserError(f"code of a model can be run on Linux only, not on {sys.platform}")
    with contextlib.ExitStack() as resources:
        mounts = visible_files(limits.disk_mib * MIB) if backend else []
        started = start(backend, mounts, _job(backend, code, limits, mounts), resources)
        return _follow(started, limits, stdin.encode("utf-8", "surrogateescape"))


def _backend() -> IsolationBackend:
    candidates = find_backends()
    problems = []
    for candidate in candidates:
        try:
            _try_out(candidate)
            return candidate
        except UserError as error:
            problems.append(f"{candidate.name}: {error}")
    if not candidates:
        problems.append("neither bwrap nor unshare is on the PATH" if sys.platform == "linux" else "it needs Linux")
    raise UserError(
        f"code cannot be run in isolation here ({'; '.join(problems)}); install bubblewrap, or pass --unsafe-exec to run it without"
    )


@functools.lru_cache(maxsize=8)
def _try_out(backend: IsolationBackend) -> None:
    """Raises `UserError` if `backend` does not work; only success is cached."""
    execution = run_with(backend, "print('in')", Limits(seconds=START_SECONDS))
    if (execution.outcome, execution.stdout) != ("ok", "in\n"):
        raise UserError(f"a trial run ended with {execution.outcome}: {execution.stderr.strip()[-200:]}")


@functools.lru_cache(maxsize=1)
def _warn_of_unsafe_runs() -> None:
    print("warning: --unsafe-exec: code written by the model runs without isolation, with your files and your network", file=sys.stderr)


def _job(backend: IsolationBackend | None, code: str, limits: Limits, mounts: list[Mount]) -> dict[str, Any]:
    """Job of the supervisor, in types that marshal supports."""
    memory, file_size = limits.memory_mib * MIB, limits.disk_mib * MIB
    cpu = math.ceil(limits.seconds) + 1  # the wall clock is the limit; this ends a busy loop if the host is suspended
    rlimits = {
        "RLIMIT_AS": (memory, memory + RESERVE_BYTES),
        "RLIMIT_CPU": (cpu, cpu + 1),
        "RLIMIT_FSIZE": (file_size, file_size),
        "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
        "RLIMIT_CORE": (0, 0),
    }
    if backend is not None:
        processes = limits.processes + backend.extra_processes
        rlimits["RLIMIT_NPROC"] = (processes, processes)
    return {
        "code": code.encode("utf-8", "surrogatepass"),
        "isolated": backend is not None,
        "mounts": mounts if backend is not None and backend.name == "unshare" else None,
        "runner_uid": backend.runner_uid if backend is not None else None,
        "filter": filter_program() if backend is not None else b"",
        "memory_bytes": memory,
        "rlimits": rlimits,
    }


@dataclass
class _Output:
    """The first `limit` bytes of a stream."""

    stream: IO[bytes]
    limit: int
    data: bytearray = field(default_factory=bytearray)

    def read(self) -> bool:
        """Reads available bytes; False if there are none now, or at the end of the stream."""
        piece = self.stream.read(_PIECE_BYTES)
        if not piece:
            return False
        self.data += piece[: self.limit + 1 - len(self.data)]
        return True

    @property
    def is_over(self) -> bool:
        return len(self.data) > self.limit

    def text(self) -> str:
        return self.data[: self.limit].decode("utf-8", "replace")


def _follow(started: Started, limits: Limits, stdin: bytes) -> Execution:
    """Writes the input and reads the outputs until the run ends or a limit is reached."""
    begin = time.monotonic()
    outputs = [_Output(stream, limits.output_bytes) for stream in (started.process.stdout, started.process.stderr)]
    verdict, rest = b"", memoryview(stdin)
    cut: Outcome | None = None
    for pipe in (started.stdin, *(output.stream for output in outputs)):
        os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(started.control, selectors.EVENT_READ)
        selector.register(started.stdin, selectors.EVENT_WRITE)
        for output in outputs:
            selector.register(output.stream, selectors.EVENT_READ, output)
        while cut is None and not verdict:
            left = begin + limits.seconds - time.monotonic()
            if left <= 0:
                cut = "timeout"
            for key, _ in selector.select(max(left, 0.0)):
                if key.fileobj is started.control:
                    verdict = _receive(started.control)
                elif key.fileobj is started.stdin:
                    rest = _feed(started.stdin, rest)
                    if not rest:
                        selector.unregister(started.stdin)
                        started.stdin.close()
                elif not key.data.read():
                    selector.unregister(key.fileobj)
                elif key.data.is_over:
                    cut = "output_limit"
    seconds = time.monotonic() - begin
    stop(started)
    for output in outputs:
        while output.read() and not output.is_over:
            pass
    if verdict and any(output.is_over for output in outputs):
        cut = "output_limit"
    outcome, exit_code = (cut, None) if cut is not None and not verdict.startswith(b"memory") else _judge(verdict)
    stdout, stderr = (output.text() for output in outputs)
    if outcome == "error" and exit_code == 0:
        stderr += "the program left before its last line (exit code 0)\n"
    return Execution(outcome, stdout, stderr, exit_code, seconds)


def _receive(control: socket.socket) -> bytes:
    """Verdict of the supervisor; "lost" if it ended without one."""
    try:
        return control.recv(100) or b"lost"
    except ConnectionResetError:
        return b"lost"


def _feed(pipe: IO[bytes], rest: memoryview) -> memoryview:
    """Writes as much as the pipe takes and returns the rest, which is empty if the pipe has no reader any more."""
    try:
        return rest[pipe.write(rest[:_PIECE_BYTES]) or 0 :]
    except BrokenPipeError:
        return rest[:0]


def _judge(verdict: bytes) -> tuple[Outcome, int | None]:
    """Outcome and exit code from the supervisor's "exit CODE whole|cut", "timeout" or "memory"."""
    words = verdict.split()
    if words[0] in (b"memory", b"timeout"):
        return ("memory" if words[0] == b"memory" else "timeout"), None
    if words[0] != b"exit":
        return "killed", None
    exit_code = int(words[1])
    if exit_code < 0:
        return "killed", exit_code
    return ("ok" if exit_code == 0 and words[2] == b"whole" else "error"), exit_code
