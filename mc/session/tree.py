"""Session tree: all tokens of a history and the gists of its complete blocks, level upon level; `RamTree` keeps it in RAM.

A node of level l stands for `K^l` tokens, so there are `length // K^l` of them; each has S slots, vectors of width D. Shapes: `n`
tokens or nodes, `S` slots, `D` width, `V` numbers of the value embeddings of an entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mc.layout.layout import Geometry
from nanochat.runtime.device import DTYPES

# A node's value embeddings are means over its tokens, recomputed when needed; nodes of at least as many tokens store them.
STORED_VALUES_TOKENS = 32_768
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TreeSpec:
    """Format of a tree: gists of levels 1 … `max_lod`, each S·`width` numbers of `dtype` (fp32, bf16 or fp16).

    `value_width` is the size of an entry's value embeddings (U·G·E of `nanochat.model.gpt`), 0 for none. Tokens are
    0 … `vocab_size` − 1. `gists` says what a gist is: a vector that enters at the first layer, or keys and values of every layer.
    """

    width: int
    geometry: Geometry
    max_lod: int
    dtype: torch.dtype
    value_width: int
    vocab_size: int
    gists: Literal["embedded", "layered"] = "embedded"

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("max_lod", 1), ("value_width", 0), ("vocab_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.geometry.span(self.max_lod) >= 2**62:
            raise ValueError(f"max_lod is {self.max_lod}; a node of that level would stand for more tokens than can be counted")
        if self.vocab_size > 2**31:
            raise ValueError(f"vocab_size is {self.vocab_size}; a token must fit into 31 bits")
        if self.dtype not in DTYPE_NAMES:
            raise ValueError(f"dtype is {self.dtype}; gists are stored as {', '.join(DTYPE_NAMES.values())}")
        if self.gists not in ("embedded", "layered"):
            raise ValueError(f"gists is {self.gists!r}; expected embedded or layered")

    @property
    def stored_values_from(self) -> int:
        """The lowest level with stored value embeddings: its nodes stand for `STORED_VALUES_TOKENS` or more."""
        level = 1
        while self.geometry.span(level) < STORED_VALUES_TOKENS:
            level += 1
        return level

    @property
    def value_levels(self) -> range:
        """The levels with stored value embeddings."""
        return range(self.stored_values_from, self.max_lod + 1)

    def new_nodes(self, level: int, length: int, added: int) -> int:
        """Number of nodes of `level` that `added` tokens complete after `length` tokens."""
        span = self.geometry.span(level)
        return (length + added) // span - length // span

    def describe(self) -> dict[str, int | str]:
        """The spec as plain values; `from_description` reads them back."""
        kind = {"gists": self.gists} if self.gists != "embedded" else {}  # the first format had no other
        return {
            "block_size": self.geometry.block_size,
            "gist_slots": self.geometry.slots,
            "max_lod": self.max_lod,
            "width": self.width,
            "dtype": DTYPE_NAMES[self.dtype],
            "vocab_size": self.vocab_size,
            "value_width": self.value_width,
            **kind,
        }

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> TreeSpec:
        """The spec that `values` describes. Raises `KeyError` or `ValueError` if they are invalid."""
        return cls(
            values["width"],
            Geometry(values["block_size"], values["gist_slots"]),
            values["max_lod"],
            DTYPES[values["dtype"]],
            values["value_width"],
            values["vocab_size"],
            values.get("gists", "embedded"),
        )


class MegaContextTree(ABC):
    """Base of session trees. Not thread-safe.

    Arguments out of range or of a wrong shape or dtype raise `ValueError` and change nothing.
    """

    spec: TreeSpec

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of tokens, including those of the incomplete last block."""

    def nodes(self, level: int) -> int:
        """Number of nodes of `level`, 1 … max_lod: `length // K^level`."""
        check_level(level, range(1, self.spec.max_lod + 1), "gists")
        return self.length // self.spec.geometry.span(level)

    @abstractmethod
    def tokens(self, begin: int, end: int) -> Tensor:
        """The tokens `begin … end−1`, int64 [end − begin] on the CPU."""

    @abstractmethod
    def gists(self, level: int, index: Tensor) -> Tensor:
        """Gists of the nodes `index`, int64 [n], of `level`: [n,S,D] in the tree's dtype, on its device."""

    @abstractmethod
    def values(self, level: int, index: Tensor) -> Tensor:
        """Mean value embeddings of each slot of these nodes, [n,S,V]; `level` must be one of `spec.value_levels`."""

    @abstractmethod
    def append(self, tokens: Tensor, gists: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Adds `tokens`, int64 [n], and the nodes they complete, all or nothing.

        `gists[l−1]` is [new,S,D] with `new = spec.new_nodes(l, length, n)` for l = 1 … max_lod; `values` likewise [new,S,V]
        for each level of `spec.value_levels`.
        """

    @abstractmethod
    def save(self) -> None:
        """Makes durable what was appended, if the tree is on disk."""

    def close(self) -> None:
        """Saves the tree and releases its resources; one on disk cannot be used afterwards."""
        self.save()


def check_append(spec: TreeSpec, length: int, tokens: Tensor, gists: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Raises `ValueError` if these are not valid arguments of `MegaContextTree.append` for a tree of `length` tokens."""
    if tokens.ndim != 1 or tokens.dtype != torch.int64:
        raise ValueError(f"tokens is {tokens.dtype} {tuple(tokens.shape)}; it must be int64 [n]")
    if len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < spec.vocab_size):
        raise ValueError(f"tokens has {int(tokens.min())} … {int(tokens.max())}; the vocabulary is 0 … {spec.vocab_size - 1}")
    for name, levels, width, given in (
        ("gists", range(1, spec.max_lod + 1), spec.width, gists),
        ("values", spec.value_levels, spec.value_width, values),
    ):
        if len(given) != len(levels):
            raise ValueError(f"{name} has {len(given)} levels; the tree has {len(levels)}")
        for level, tensor in zip(levels, given, strict=True):
            expected = (spec.new_nodes(level, length, len(tokens)), spec.geometry.slots, width)
            if tuple(tensor.shape) != expected or tensor.dtype != spec.dtype:
                wrong = f"{tensor.dtype} {list(tensor.shape)}; {len(tokens)} tokens after {length}"
                raise ValueError(f"{name} of level {level} is {wrong} need {spec.dtype} {list(expected)}")


def check_range(begin: int, end: int, length: int) -> None:
    """Raises `ValueError` unless `begin … end` is within `length` tokens."""
    if not 0 <= begin <= end <= length:
        raise ValueError(f"invalid range {begin} … {end}: the tree has {length} tokens")


def check_level(level: int, levels: range, what: str) -> None:
    """Raises `ValueError` unless `level` is one of `levels`."""
    if level not in levels:
        have = f"{levels[0]} … {levels[-1]}" if levels else "none"
        raise ValueError(f"level is {level}; the tree has {what} of levels {have}")


def check_index(index: Tensor, nodes: int, level: int) -> None:
    """Raises `ValueError` unless `index` is int64 [n] and its nodes exist; on a GPU the gather itself checks the latter."""
    if index.ndim != 1 or index.dtype != torch.int64:
        raise ValueError(f"index is {index.dtype} {tuple(index.shape)}; it must be int64 [n]")
    if index.device.type == "cpu" and len(index) and not (int(index.min()) >= 0 and int(index.max()) < nodes):
        raise ValueError(f"index has {int(index.min())} … {int(index.max())}; level {level} has {nodes} nodes")


class _Rows:
    """Buffer of rows that doubles when it is full, so that appending copies a row about once."""

    def __init__(self, row: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._buffer = torch.empty(0, *row, dtype=dtype, device=device)

    def first(self, count: int) -> Tensor:
        """View of the first `count` rows."""
        return self._buffer[:count]

    def put(self, rows: Tensor, at: int) -> None:
        """Writes `rows` after the first `at` rows, which are kept."""
        if not len(rows):
            return
        needed = at + len(rows)
        if needed > len(self._buffer):
            grown = self._buffer.new_empty(max(needed, 2 * len(self._buffer)), *self._buffer.shape[1:])
            grown[:at] = self._buffer[:at]
            self._buffer = grown
        self._buffer[at:needed] = rows


class RamTree(MegaContextTree):
    """A `MegaContextTree` in RAM: tokens on the CPU, gists and values on `device`. Lost with the process."""

    def __init__(self, spec: TreeSpec, device: torch.device | str = "cpu") -> None:
        self.spec, self.device, self._length = spec, torch.device(device), 0
        slots = spec.geometry.slots
        self._tokens = _Rows((), torch.int32, torch.device("cpu"))
        self._gists = [_Rows((slots, spec.width), spec.dtype, self.device) for _ in range(spec.max_lod)]
        self._values = [_Rows((slots, spec.value_width), spec.dtype, self.device) for _ in spec.value_levels]

    @property
    def length(self) -> int:
        return self._length

    def tokens(self, begin: int, end: int) -> Tensor:
        check_range(begin, end, self._length)
        return self._tokens.first(end)[begin:].long()

    def gists(self, level: int, index: Tensor) -> Tensor:
        check_level(level, range(1, self.spec.max_lod + 1), "gists")
        return self._take(self._gists[level - 1], level, index)

    def values(self, level: int, index: Tensor) -> Tensor:
        check_level(level, self.spec.value_levels, "values")
        return self._take(self._values[level - self.spec.stored_values_from], level, index)

    def _take(self, rows: _Rows, level: int, index: Tensor) -> Tensor:
        nodes = self.nodes(level)
        check_index(index, nodes, level)
        return rows.first(nodes).index_select(0, index.to(self.device))

    def append(self, tokens: Tensor, gists: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        check_append(self.spec, self._length, tokens, gists, values)
        for level, (rows, added) in enumerate(zip(self._gists, gists, strict=True), 1):
            rows.put(added.detach(), self.nodes(level))
        for level, rows, added in zip(self.spec.value_levels, self._values, values, strict=True):
            rows.put(added.detach(), self.nodes(level))
        self._tokens.put(tokens, self._length)
        self._length += len(tokens)  # last, so that an interrupted append has no effect

    def copy(self) -> RamTree:
        """Copy of the tree that grows independently of it."""
        other = RamTree(self.spec, self.device)
        index = [torch.arange(self.nodes(level)) for level in range(1, self.spec.max_lod + 1)]
        gists = [self.gists(level, nodes) for level, nodes in enumerate(index, 1)]
        values = [self.values(level, index[level - 1]) for level in self.spec.value_levels]
        other.append(self.tokens(0, self._length), gists, values)
        return other

    def save(self) -> None:
        """Does nothing."""
