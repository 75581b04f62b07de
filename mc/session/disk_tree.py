"""Session tree in files: memory-mapped, append-only, crash-safe; `mc.session.files` defines the format.

Complete blocks survive a killed process as soon as `append` has returned. What was there at the last `save` also survives a crash
of the machine; that includes the incomplete block. Opening verifies every byte. Shapes as in `mc.session.tree`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mc.session.files import (
    BLOCKS,
    CHECKSUM,
    LOCK,
    MANIFEST,
    TAIL,
    Header,
    Manifest,
    Tail,
    check_gists,
    check_same,
    checksums,
    columns,
    list_sessions,
    lock,
    make_header,
    read_at,
    read_header,
    read_tail,
    token_dtype,
    valid_name,
    verify,
    write_at,
    write_header,
    write_tail,
)
from mc.session.tree import MegaContextTree, TreeSpec, check_append, check_index, check_level, check_range
from nanochat.common import UserError, fsync_dir


class _State(NamedTuple):
    """Contents of the tree; replaced as a whole, so that an interrupted append has happened completely or not at all."""

    blocks: int
    checksum: int  # of the last block, or the seed
    tail: np.ndarray  # int64, the tokens of the incomplete block


class DiskTree(MegaContextTree):
    """A `MegaContextTree` in a folder, made by `create` or `open`; returns gists and values on the CPU.

    `manifest` is the one the session was created with, `cut` the number of bytes left by a killed process that opening removed.
    Every method raises `UserError` if the disk fails, and leaves the tree as it was.
    """

    def __init__(self, folder: Path, header: Header, repair: bool, resources: contextlib.ExitStack) -> None:
        """Called by `create` and `open` with the lock held; it is in `resources`, which the tree takes over."""
        self.folder, self.spec, self.manifest, self.cut = folder, header.spec, header.manifest, 0
        self._header, self._columns = header, columns(header.spec)
        self._rows: dict[str, np.ndarray] = {}  # memory-mapped, by file
        with self._disk("open", "make its files readable and writable"):
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote the tail
                leftover.unlink()
            self._files = {}
            for name in (*(column.name for column in self._columns), BLOCKS):
                self._files[name] = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
                resources.callback(os.close, self._files[name])
            self._state, self._saved = self._recover(repair)
        self.save()
        self._resources = resources.pop_all()

    @classmethod
    def create(cls, folder: Path, manifest: Manifest, spec: TreeSpec) -> DiskTree:
        """Creates a session in `folder`, which must be empty or not exist.

        `manifest` names the model, tokenizer, … that the session belongs to; `open` compares it. Raises `UserError` if the folder
        already holds a session or something else, `ValueError` if its name or `manifest` is invalid.
        """
        header = make_header(manifest, spec)
        return cls._make(folder, header, {}, Tail(0, np.zeros(0, np.int64)), header.seed)

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, repair: bool = False, spec: TreeSpec | None = None) -> DiskTree:
        """Opens and verifies the session in `folder`; `manifest`, and `spec` if given, must be those it was created with.

        Cuts what a killed process left half-written. Raises `UserError` if there is no session, a key differs, it is open
        elsewhere, or it is damaged; with `repair`, a damaged one is cut at its last valid block.
        """
        if not folder.is_dir():
            names = ", ".join(info.name for info in list_sessions(folder.parent)) or "none"
            raise UserError(f"no session {folder.name} in {folder.parent} (there: {names}); give another name or start it")
        read_header(folder)  # before locking, which creates a file in what may not be a session
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, lock(folder))
            header = read_header(folder)
            if spec is not None:
                check_gists(folder.name, header.spec, spec)
            check_same(folder.name, header.manifest, manifest)
            if spec is not None:
                check_same(folder.name, header.spec.describe(), spec.describe())
            return cls(folder, header, repair, stack)

    def fork(self, folder: Path) -> DiskTree:
        """Copies the session to the new `folder`; the two then grow independently. Raises as `create` does."""
        self._check_open()
        files, state = {name: self.folder / name for name in self._files}, self._state
        return self._make(folder, self._header, files, Tail(state.blocks, state.tail), state.checksum)

    @classmethod
    def _make(cls, folder: Path, header: Header, files: dict[str, Path], tail: Tail, before: int) -> DiskTree:
        """Makes a session in `folder` from copies of `files` and `tail`. It becomes one with manifest.json, which is written last."""
        valid_name(folder.name)
        names = [*(column.name for column in columns(header.spec)), BLOCKS]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make a session in {folder}: {error.strerror}; give another place") from error
        with contextlib.ExitStack() as stack:
            _check_vacant(folder, names)
            stack.callback(os.close, lock(folder))
            _check_vacant(folder, names)  # another process may have been faster
            with contextlib.ExitStack() as undo:
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                try:
                    _copy_files(names, files, folder)
                    write_tail(folder, header.spec, tail, before)
                    write_header(folder, header)
                    fsync_dir(folder.parent)
                except OSError as error:
                    raise UserError(f"cannot make session {folder.name}: {error.strerror}; free some space in {folder.parent}") from error
                tree = cls(folder, header, False, stack)
                undo.pop_all()
        return tree

    @contextlib.contextmanager
    def _disk(self, doing: str, remedy: str) -> Iterator[None]:
        """Turns an `OSError` into a `UserError`."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot {doing} session {self.folder.name} in {self.folder.parent}: {error.strerror}; {remedy}") from error

    def _recover(self, repair: bool) -> tuple[_State, _State | None]:
        """State of the files, and the same again if it is durable (None: it must be saved). Cuts what was not committed."""
        K, name, seed = self.spec.geometry.block_size, self.folder.name, self._header.seed
        sizes = {file: os.fstat(fd).st_size for file, fd in self._files.items()}
        committed = sizes[BLOCKS] // CHECKSUM.itemsize
        stored = np.frombuffer(read_at(self._files[BLOCKS], 0, committed * CHECKSUM.itemsize), CHECKSUM)
        # The first missing row belongs to the block with which it would have been written.
        ends = {c.name: (sizes[c.name] // c.size + 1) * c.every - 1 for c in self._columns if c.size}
        whole = min(committed, *ends.values())
        good = verify(self._columns, self._files, stored[:whole], seed)
        tail = read_tail(self.folder, self.spec, stored, seed)
        trouble = ""
        if good < whole:
            also = [c.name for c in self._columns if c.size and (good + 1) % c.every == 0]
            trouble = f"block {good:,} is damaged, in {', '.join(also)} or {BLOCKS}"
        elif good < committed:
            trouble = f"{', '.join(file for file, end in ends.items() if end == good)} ends before block {good:,} of {committed:,}"
        elif isinstance(tail, str):
            trouble = tail
        if trouble and not repair:
            keeps = f"--session-repair cuts it there and keeps {good * K:,} tokens"
            raise UserError(f"session {name} is damaged from token {good * K:,} on: {trouble}; {keeps}")
        current = isinstance(tail, Tail) and tail.blocks == good
        checksum = int(stored[good - 1]) if good else seed
        state = _State(good, checksum, tail.tokens if current else np.zeros(0, np.int64))
        self.cut = self._truncate(state)
        return state, state if current and not self.cut else None

    def _truncate(self, state: _State) -> int:
        """Cuts the files to what `state` has committed; returns the number of bytes cut."""
        lengths = {BLOCKS: state.blocks * CHECKSUM.itemsize}  # first: a checksum must never be without its block
        lengths |= {c.name: state.blocks // c.every * c.size for c in self._columns}
        cut = 0
        for name, length in lengths.items():
            if (beyond := os.fstat(self._files[name]).st_size - length) > 0:
                os.ftruncate(self._files[name], length)
                cut += beyond
        return cut

    @property
    def length(self) -> int:
        return self._state.blocks * self.spec.geometry.block_size + len(self._state.tail)

    def tokens(self, begin: int, end: int) -> Tensor:
        check_range(begin, end, self.length)
        K, state = self.spec.geometry.block_size, self._state
        committed = state.blocks * K
        stored = self._mapped("tokens.bin", committed, 1, token_dtype(self.spec))[begin:end, 0]
        tail = state.tail[max(0, begin - committed) : max(0, end - committed)]
        return torch.from_numpy(np.concatenate([stored.astype(np.int64), tail]))

    def gists(self, level: int, index: Tensor) -> Tensor:
        return self._take(f"lod{level}.bin", self.spec.width, level, index)

    def values(self, level: int, index: Tensor) -> Tensor:
        check_level(level, self.spec.value_levels, "values")
        return self._take(f"values{level}.bin", self.spec.value_width, level, index)

    def _take(self, name: str, width: int, level: int, index: Tensor) -> Tensor:
        nodes, slots = self.nodes(level), self.spec.geometry.slots
        index = index.cpu()
        check_index(index, nodes, level)
        rows = self._mapped(name, nodes, slots * width, np.dtype(f"<i{self.spec.dtype.itemsize}"))
        return torch.from_numpy(rows[index.numpy()]).view(self.spec.dtype).view(len(index), slots, width)

    def _mapped(self, name: str, rows: int, width: int, dtype: np.dtype) -> np.ndarray:
        """At least the first `rows` rows, [rows, width], of a file; mapped again if it has grown."""
        self._check_open()
        if rows * width == 0:
            return np.zeros((rows, width), dtype)
        mapped = self._rows.get(name)
        if mapped is None or len(mapped) < rows:
            with self._disk("read", "try again"):
                view = mmap.mmap(self._files[name], rows * width * dtype.itemsize, prot=mmap.PROT_READ)
            self._rows[name] = mapped = np.frombuffer(view, dtype).reshape(rows, width)
        return mapped

    def append(self, tokens: Tensor, gists: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self._check_open()
        check_append(self.spec, self.length, tokens, gists, values)
        K, before = self.spec.geometry.block_size, self._state
        waiting = np.concatenate([before.tail, tokens.cpu().numpy()])
        count = len(waiting) // K
        complete, tail = waiting[: count * K], waiting[count * K :].copy()
        if not count:
            self._state = before._replace(tail=tail)
            return
        data = [_as_bytes(complete.astype(token_dtype(self.spec))), *(_tensor_bytes(tensor) for tensor in (*gists, *values))]
        stored = checksums(self._columns, data, before.blocks, count, before.checksum)
        after = _State(before.blocks + count, int(stored[-1]), tail)
        try:
            with self._disk("add to", "nothing was added; free some space and continue"):
                for column, added in zip(self._columns, data, strict=True):
                    write_at(self._files[column.name], added, before.blocks // column.every * column.size)
                write_at(self._files[BLOCKS], _as_bytes(stored), before.blocks * CHECKSUM.itemsize)
                self._state = after
        finally:
            if self._state is before:  # refused, or interrupted
                self._truncate(before)

    def save(self) -> None:
        """Makes everything appended durable, including the incomplete block."""
        self._check_open()
        state = self._state
        if state is self._saved:
            return
        with self._disk("save", "free some space and continue"):
            for file in self._files.values():
                os.fsync(file)
            write_tail(self.folder, self.spec, Tail(state.blocks, state.tail), state.checksum)
        self._saved = state

    def close(self) -> None:
        """Saves and unlocks the session; may be called again. If saving fails, the session is closed nevertheless."""
        if self._files:
            with self._resources:
                try:
                    self.save()
                finally:
                    self._rows.clear()
                    self._files = {}

    def _check_open(self) -> None:
        if not self._files:
            raise ValueError(f"session {self.folder.name} was closed")


def _check_vacant(folder: Path, names: Sequence[str]) -> None:
    """Raises `UserError` if `folder` holds a session, or anything but files left by an interrupted `create`."""
    if (folder / MANIFEST).exists():
        raise UserError(f"session {folder.name} already exists in {folder.parent}; open it or give another name")
    found = [path.name for path in folder.iterdir() if not (path.name.startswith(".") and path.suffix == ".tmp")]
    if strangers := sorted({*found} - {*names, LOCK, TAIL}):
        raise UserError(f"{folder} is not a session and holds {strangers[0]}; give another name")


def _copy_files(names: Sequence[str], files: Mapping[str, Path], folder: Path) -> None:
    """Makes files of these `names` in `folder`, copies of `files` or empty."""
    for name in names:
        if name in files:
            shutil.copyfile(files[name], folder / name)
        else:
            (folder / name).write_bytes(b"")


def _as_bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _tensor_bytes(tensor: Tensor) -> memoryview:
    """Bytes of `tensor`; numpy has no bf16."""
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
