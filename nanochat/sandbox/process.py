"""Process of a run: starts it, in a sandbox or without, sends it its job, and ends it.

The program is `child`, which describes the protocol of the control socket.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nanochat.common import UserError
from nanochat.sandbox.isolation import TOOL_PATH, IsolationBackend, Mount, interpreter

START_SECONDS = 60.0  # to start an interpreter on a machine under load
END_SECONDS = 10.0


@dataclass
class Started:
    """Running process with our ends of its control socket and pipes."""

    process: subprocess.Popen
    control: socket.socket
    stdin: IO[bytes]
    isolated: bool


def start(backend: IsolationBackend | None, mounts: list[Mount], job: dict[str, Any], resources: contextlib.ExitStack) -> Started:
    """Starts the sandbox with `mounts` and sends it `job`, of types that marshal supports; returns when the code begins.

    `resources` ends it in any case. Without a `backend` there is no sandbox. Raises `UserError` if it does not start.
    """
    control, theirs = socket.socketpair()
    resources.enter_context(control)
    control.settimeout(START_SECONDS)
    stdin_read, stdin_write = os.pipe()
    stdin = resources.enter_context(os.fdopen(stdin_write, "wb", buffering=0))
    python = [interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", _child_source(), str(stdin_read)]
    try:
        process = subprocess.Popen(
            backend.command(mounts, python) if backend else python,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(stdin_read,),
            env={"PATH": TOOL_PATH} if backend else {},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"cannot start {error.filename}: {error.strerror}") from error
    finally:
        theirs.close()
        os.close(stdin_read)
    started = Started(process, control, stdin, backend is not None)
    resources.callback(_end, started)
    try:
        if backend is not None and backend.maps_users:
            _expect(control, b"mapped?")
            backend.write_user_map(process.pid)
            control.sendall(b"\n")
        message = marshal.dumps(job)
        control.sendall(len(message).to_bytes(8, "little") + message)
        _expect(control, b"started")
    except (OSError, _NotStarted) as error:
        control.close()
        raise UserError(f"the sandbox does not start ({_first_line(process) or error})") from error
    return started


class _NotStarted(Exception):
    """Unexpected line from the other end of the control socket."""


def _expect(control: socket.socket, line: bytes) -> None:
    """Reads one line and raises `_NotStarted` unless it is `line`."""
    said = b""
    while not said.endswith(b"\n"):
        piece = control.recv(1)
        if not piece:
            raise _NotStarted(said.decode(errors="replace").strip() or "it ended immediately")
        said += piece
    if said.rstrip() != line:
        raise _NotStarted(said.decode(errors="replace").strip())


def _first_line(process: subprocess.Popen) -> str:
    """First line of the standard error of a command that ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    if process.poll() is None:
        process.kill()
    lines = process.stderr.read(4096).decode(errors="replace").strip().splitlines()
    return lines[0] if lines else ""


def stop(started: Started) -> None:
    """Ends the run. When this returns, no process of an isolated run exists.

    Closing the socket makes process 1 of the sandbox exit; the kernel then kills all others before the command that waits for
    process 1 returns.
    """
    with contextlib.suppress(OSError):
        started.control.shutdown(socket.SHUT_RDWR)  # effective even if a process forked by another thread has a copy
    started.control.close()
    if started.process.returncode is not None:
        return
    if not started.isolated:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGKILL)
    try:
        started.process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        started.process.kill()
        started.process.wait()


def _end(started: Started) -> None:
    stop(started)
    for pipe in (started.stdin, started.process.stdout, started.process.stderr):
        pipe.close()


@functools.lru_cache(maxsize=1)
def _child_source() -> str:
    return Path(__file__).with_name("child.py").read_text(encoding="utf-8")
