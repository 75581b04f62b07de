"""Process of a script: what is set before its modules load, and what Ctrl-C and a broken output do to it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# Times that an idle OpenMP thread looks for work before it sleeps. libgomp's 300,000 take longer than a time slice: beside one other
# busy process such threads burn the core that the working ones wait for. `python -m bench.spin_count` compares counts.
SPIN_COUNT = 2_000
# CUDA's allocator grows its segments instead of adding new ones, so that tensors of changing sizes leave fewer holes.
ALLOCATOR = "expandable_segments:True"
_ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # the newest first; torch takes any
READER_ENDED = 128 + signal.SIGPIPE  # exit code of a program that dies by the signal


def begin() -> None:
    """Prepares a process that was started as `python -m` with a module of this repository, before that module loads.

    libgomp and CUDA's allocator read their variables when torch is loaded. Does nothing in a process that merely imports: only while the
    interpreter looks for the module is `sys.argv[0]` "-m".
    """
    if sys.argv[:1] != ["-m"]:
        return
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    if not os.environ.keys() & set(_ALLOCATOR_NAMES):
        os.environ[_ALLOCATOR_NAMES[0]] = ALLOCATOR
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the closed one, which would else become that of some file


def _quit(number: int, frame: FrameType | None) -> NoReturn:
    """Ctrl-C while modules load: there is nothing to clean up, and libraries may catch `KeyboardInterrupt`."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(130)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The time in which the script itself runs: Ctrl-C raises `KeyboardInterrupt`, output that cannot be written ends the process.

    That is an `error: …` on stderr and exit code 1; silence and the code of SIGPIPE if the reader of a pipe has ended.
    Text that the encoding of stdout lacks is written as `\\x…`, like that of stderr.
    """
    prepared = signal.getsignal(signal.SIGINT) is _quit
    if prepared:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _guard_output()
    try:
        yield
    finally:
        sys.stdout.flush()
        if prepared:  # what is left is to take torch down
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Output(io.FileIO):
    """Standard stream that ends the process when it cannot be written; one that `survives` discards its output instead."""

    survives = False

    def write(self, data: bytes | memoryview) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            ended = isinstance(error, BrokenPipeError)
            if ended or not self.survives:  # else there may be room again later
                self._discard()
            if self.survives:
                return len(data)
            raise SystemExit(READER_ENDED if ended else f"error: cannot write the output: {error.strerror}") from error

    def _discard(self) -> None:
        """Discards what is written from now on, and what buffers still hold."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _guard_output() -> None:
    """Replaces the standard streams by ones that fail as `running` says. Streams that are not the process's own stay as they are."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = _Output(stream.fileno(), "w", closefd=False)
            raw.survives = name == "stderr"  # nothing is left to tell it to
            lines = name == "stderr" or stream.line_buffering
            wrapped = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)
            setattr(sys, name, wrapped)


def outlive_readers() -> None:
    """Makes this process survive an output that cannot be written.

    Ctrl-C also ends a `tee` behind a pipe, and the run must still be able to save; so it must when the disk of its log is full.
    """
    _guard_output()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output):
        raw.survives = True
