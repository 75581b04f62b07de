"""Device-memory snapshots of a process at the end of each phase (`MC_MEMORY_DEBUG=1`), in `report/memory/<run>/`.

A phase is the first of something frequent (forward, backward, optimizer update, …) or something rare (model built, evaluation,
checkpoint). `<phase>.txt` is a snapshot, `summary.md` a table of all of them; with several processes each writes its own, with
`.rank1` and so on in the names.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from nanochat.common import UserError, atomic_write, base_dir, ensure_dir
from nanochat.markdown import table
from nanochat.profiling.device_memory import peak_memory_mib
from nanochat.profiling.timers import SpanTimers

VARIABLE = "MC_MEMORY_DEBUG"
LARGEST = 20  # tensors that a snapshot names
MIB = 1 << 20


def memory_debug_wanted() -> bool:
    """Whether snapshots are requested. Raises `UserError` if the variable is neither 0 nor 1."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise UserError(f"{VARIABLE} is {value!r}; set it to 1 to write memory snapshots, or to 0")
    return value == "1"


def open_memory_debug(run: str, device: torch.device, rank: int = 0, world_size: int = 1) -> MemoryDebug | None:
    """Snapshots of `run`, a name such as `base-d12`, if they are requested. Rank 0 prints where they are."""
    if not memory_debug_wanted():
        return None
    folder = ensure_dir(base_dir() / "report" / "memory" / run)
    if rank == 0:
        print(f"{VARIABLE}: memory snapshots go to {folder}; the table is summary.md", flush=True)
    return MemoryDebug(folder, device, f".rank{rank}" if world_size > 1 else "")


@dataclass(frozen=True)
class _Row:
    """Line of the summary, in MiB."""

    phase: str
    step: int | None
    resident: float
    peak: float
    allocated: float  # by torch on the GPU
    most_allocated: float
    most_reserved: float


class MemoryDebug:
    """Writes the snapshots of one process to `folder`; its file names end with `suffix`."""

    def __init__(self, folder: Path, device: torch.device, suffix: str = "") -> None:
        self.folder, self.device, self.suffix = folder, device, suffix
        self._rows: list[_Row] = []
        self._seen: set[str] = set()

    def watch(self, spans: SpanTimers, last: str) -> None:
        """Records each span, nested ones too, when it first ends, until the one named `last` has."""

        @contextmanager
        def first(name: str) -> Iterator[None]:
            try:
                yield
            except torch.OutOfMemoryError:
                self.record(f"{name}_out_of_memory", 0)
                raise
            if name not in self._seen:
                self._seen.add(name)
                self.record(name)
            if name == last:
                spans.watchers.remove(first)

        spans.watchers.append(first)

    def record(self, phase: str, step: int | None = None) -> None:
        """Writes the snapshot `phase`, replacing one of that name, and the summary. Raises `UserError` if that fails."""
        before = self._rows[-1] if self._rows else None
        row = self._measure(phase, step)
        self._rows.append(row)
        blocks = [_head(row, before), _allocator(), _live_tensors()]
        if self.device.type == "cuda":
            blocks.insert(1, torch.cuda.memory_summary(self.device))
        atomic_write(self.folder / f"{phase}{self.suffix}.txt", "\n\n".join(blocks) + "\n")
        atomic_write(self.folder / f"summary{self.suffix}.md", self._summary())

    def _measure(self, phase: str, step: int | None) -> _Row:
        allocated = most_allocated = most_reserved = 0.0
        if self.device.type == "cuda":
            allocated = torch.cuda.memory_allocated(self.device) / MIB
            most_allocated = torch.cuda.max_memory_allocated(self.device) / MIB
            most_reserved = torch.cuda.max_memory_reserved(self.device) / MIB
        return _Row(phase, step, resident_mib(), peak_memory_mib("cpu"), allocated, most_allocated, most_reserved)

    def _summary(self) -> str:
        header, gpu = ["phase", "step", "resident MiB", "peak MiB", "change MiB"], self.device.type == "cuda"
        if gpu:
            header += ["GPU allocated MiB", "GPU peak MiB", "GPU reserved peak MiB", "GPU change MiB"]
        lines = []
        for before, row in zip([None, *self._rows], self._rows, strict=False):
            line = [row.phase, row.step, f"{row.resident:,.1f}", f"{row.peak:,.1f}", _change(row.resident, before and before.resident)]
            if gpu:
                line += [f"{row.allocated:,.1f}", f"{row.most_allocated:,.1f}", f"{row.most_reserved:,.1f}"]
                line.append(_change(row.allocated, before and before.allocated))
            lines.append(line)
        title = f"# Memory of process {os.getpid()}, {self.folder.name}{self.suffix.replace('.', ', ')}"
        return f"{title}\n\n{table(header, lines, right=range(1, len(header)))}\n"


def resident_mib() -> float:
    """Resident memory of this process in MiB; its peak if the system gives no current value."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory_mib("cpu")
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def _head(row: _Row, before: _Row | None) -> str:
    since = "" if before is None else f", {_change(row.resident, before.resident)} MiB since {before.phase}"
    lines = [
        f"phase {row.phase}" + ("" if row.step is None else f", after step {row.step}"),
        f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}, process {os.getpid()}",
        f"resident {row.resident:,.1f} MiB{since}; peak {row.peak:,.1f} MiB",
    ]
    if row.most_reserved:
        lines.append(f"GPU {row.allocated:,.1f} MiB, peak {row.most_allocated:,.1f} MiB allocated, {row.most_reserved:,.1f} MiB reserved")
    return "\n".join(lines)


def _allocator() -> str:
    """Memory held by the C library's allocator, if that is glibc."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "mallinfo2"):
        return "the C library's allocator gives no figures here"
    libc.mallinfo2.restype = _MallInfo
    info = libc.mallinfo2()
    figures = {"heaps": info.arena, "of them in use": info.uordblks, "of them free": info.fordblks, "mapped by themselves": info.hblkhd}
    return "glibc (MiB): " + ", ".join(f"{name} {size / MIB:,.1f}" for name, size in figures.items())


def _live_tensors() -> str:
    """Tensors that Python knows, by dtype, and the largest; views of one storage count once."""
    # type(), not isinstance(): some objects create their __class__ on access, with side effects. torch.compile keeps subclasses
    # and wrappers, which hold no memory.
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, Parameter)]
    storages: dict[int, tuple[int, Tensor]] = {}
    for tensor in tensors:
        if tensor.layout == torch.strided and tensor.device.type != "meta" and not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            storage = tensor.untyped_storage()
            storages.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
    largest = sorted(storages.values(), key=lambda held: held[0], reverse=True)
    groups: dict[tuple[str, str], list[int]] = {}
    for size, tensor in largest:
        groups.setdefault((tensor.device.type, _dtype(tensor)), []).append(size)
    lines = [
        f"live tensors: {len(tensors)}, in {len(storages)} storages of {sum(size for size, _ in largest) / MIB:,.1f} MiB",
        "(those that only autograd's graph holds are not seen)",
        *(f"  {device} {dtype}: {len(sizes)} of {sum(sizes) / MIB:,.1f} MiB" for (device, dtype), sizes in sorted(groups.items())),
        "the largest:",
        *(f"  {size / MIB:10,.2f} MiB  {_dtype(t)} {list(t.shape)} on {t.device}{_role(t)}" for size, t in largest[:LARGEST]),
    ]
    return "\n".join(lines)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _role(tensor: Tensor) -> str:
    return ", a parameter" if type(tensor) is Parameter else ""


def _change(now: float, before: float | None) -> str:
    return "–" if before is None else f"{now - before:+,.1f}"
