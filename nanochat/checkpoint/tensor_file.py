"""Tensor files: the safetensors format, from tensors of any device by way of one buffer, and read tensor by tensor or row by row.

The library of that name takes two more copies of everything to write a file, and holds the interpreter's lock meanwhile.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from nanochat.checkpoint.open_file import OpenFile

# By the names of the format, in its order: a file begins with the tensors of the last dtype in this list.
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32,
    "F32": torch.float32, "C64": torch.complex64, "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


def to_bytes(named: Mapping[str, Tensor]) -> mmap.mmap:
    """The bytes of a file of `named`, in memory of their own: what changes the tensors later does not change them.

    Equal tensors give equal bytes, those that safetensors writes. Tensors that share memory become independent copies. Raises
    `ValueError` for a dtype that the format lacks.
    """
    if unknown := [name for name, tensor in named.items() if tensor.dtype not in _NAMES]:
        raise ValueError(f"{unknown[0]} is of {named[unknown[0]].dtype}, which a checkpoint cannot hold")
    order = sorted(named, key=lambda name: (-_RANKS[named[name].dtype], name))
    entries, end = {}, 0
    for name in order:
        start, end = end, end + named[name].nbytes
        entries[name] = {"dtype": _NAMES[named[name].dtype], "shape": list(named[name].shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    buffer = mmap.mmap(-1, len(head) + end, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # goes back to the system when it is let go
    buffer[: len(head)] = head
    data = torch.frombuffer(buffer, dtype=torch.uint8)[len(head) :]
    for name in order:
        start, end = entries[name]["data_offsets"]
        data[start:end].view(named[name].dtype).view(named[name].shape).copy_(named[name].detach())
    return buffer


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in a file. Indexing it with `[first:end]` or `[...]` reads those rows, or all, into a new tensor on the CPU."""

    file: OpenFile
    start: int  # of its bytes in the file
    dtype: torch.dtype
    shape: torch.Size

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        first, end, shape = 0, 1, self.shape
        if isinstance(rows, slice):
            first, end, step = rows.indices(self.shape[0])
            assert step == 1
            shape = torch.Size((max(end - first, 0), *self.shape[1:]))
        out = torch.empty(shape, dtype=self.dtype)
        row_bytes = math.prod(self.shape[1:]) * out.element_size()
        if out.numel():
            self.file.read_into(memoryview(out.view(-1).view(torch.uint8).numpy()), self.start + first * row_bytes)
        return out


def saved_tensors(file: OpenFile) -> dict[str, SavedTensor]:
    """The tensors of `file`, by name; none is read."""
    size = bytearray(8)
    file.read_into(memoryview(size), 0)
    head = bytearray(int.from_bytes(size, "little"))
    file.read_into(memoryview(head), 8)
    return {
        name: SavedTensor(file, 8 + len(head) + entry["data_offsets"][0], DTYPES[entry["dtype"]], torch.Size(entry["shape"]))
        for name, entry in json.loads(head).items()
        if name != "__metadata__"
    }


class ReadTensors(Mapping[str, Tensor]):
    """Tensors in files, by name; each is read whenever it is asked for."""

    def __init__(self, saved: Mapping[str, SavedTensor]) -> None:
        self.saved = saved

    def __getitem__(self, name: str) -> Tensor:
        return self.saved[name][...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.saved)

    def __len__(self) -> int:
        return len(self.saved)
