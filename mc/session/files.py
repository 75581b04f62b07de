"""Files of sessions on disk: their format and checksums, the lock of an open session, and listing and deleting sessions.

A session is a folder:

    manifest.json    format, `manifest` (of the caller: model, tokenizer, …), `spec` (`TreeSpec.describe`), CRC-32 of these
    tokens.bin       uint16, or uint32 if the vocabulary needs it, [K] for each complete block
    lod<l>.bin       [S,D] of the spec's dtype for each node of level l = 1 … max_lod
    values<l>.bin    [S,V] for each node of the levels whose value embeddings are stored
    blocks.bin       uint32 for each complete block: its checksum
    tail.bin         the incomplete block as of the last save: uint64 blocks before it, uint32 CRC-32, its tokens
    unfinished.json  while a document is read: `Unfinished`; stays if the process is killed
    lock             locked while a process has the session open; holds the process id

Numbers are little-endian. A block's checksum is the CRC-32 of all that its completion adds: its tokens, its gist, and the
gists and values of the higher nodes that end with it, in the order of `columns`. Its initial value is the checksum of the
block before it, or that of the manifest, so a block is valid only at its own place; the same holds for the tail. A checksum is
written after what it covers: the size of blocks.bin gives the number of blocks, and anything beyond in the other files was
left by a killed process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mc.session.tree import TreeSpec
from nanochat.checkpoint.manifest import canonical
from nanochat.common import UserError, atomic_write, read_json, write_json

FORMAT = "megacontext-session-1"
MANIFEST, BLOCKS, TAIL, LOCK = "manifest.json", "blocks.bin", "tail.bin", "lock"
UNFINISHED = "unfinished.json"
CHECKSUM = np.dtype("<u4")
VERIFIED_AT_ONCE = 1 << 24  # bytes
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_TAIL_HEAD = struct.Struct("<Q")
_TAIL_CHECK = struct.Struct("<I")

Manifest = Mapping[str, str | int | float | bool | None]


def valid_name(name: str) -> str:
    """`name`, checked to be a valid name of a session, and so of a folder; raises `ValueError` if it is not."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"invalid session name {name!r}: use 1 to 64 letters, digits, '-', '_' or '.', not starting with '.'")
    return name


class Header(NamedTuple):
    """Contents of manifest.json; `seed` is the initial value of the checksums."""

    manifest: dict[str, Any]
    spec: TreeSpec
    seed: int


def make_header(manifest: Manifest, spec: TreeSpec) -> Header:
    """Header of a new session. Raises `ValueError` if `manifest` is not a flat dict of plain values."""
    if not all(value is None or isinstance(value, str | int | float) for value in manifest.values()):
        raise ValueError("invalid manifest: expected only text, numbers, True, False and None as values")
    content = _content(manifest, spec.describe())
    if json.loads(content)["manifest"] != dict(manifest):
        raise ValueError("invalid manifest: JSON cannot hold it; keys must be text and numbers finite")
    return Header(dict(manifest), spec, zlib.crc32(content))


def write_header(folder: Path, header: Header) -> None:
    """Writes manifest.json, which makes the folder a session."""
    atomic_write(folder / MANIFEST, _written(header))


def read_header(folder: Path) -> Header:
    """Reads manifest.json. Raises `UserError` if it is missing, damaged or of another version."""
    restore = "put back a copy of that file, or delete the session"
    try:
        data = (folder / MANIFEST).read_bytes()
        described = json.loads(data)
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a session: it has no {MANIFEST}; give another name") from error
    except OSError as error:
        raise UserError(f"cannot read {folder / MANIFEST}: {error.strerror}; make it readable") from error
    except ValueError as error:
        raise UserError(f"session {folder.name} is damaged: {MANIFEST} is not JSON; {restore}") from error
    if isinstance(described, dict) and described.get("format", FORMAT) != FORMAT:
        wrong = f"has format {described['format']!r} and this version reads {FORMAT!r}"
        raise UserError(f"{MANIFEST} of session {folder.name} {wrong}; open it with the version that made it")
    try:
        seed = zlib.crc32(_content(described["manifest"], described["spec"]))
        header = Header(described["manifest"], TreeSpec.from_description(described["spec"]), seed)
        if data != _written(header):
            raise ValueError("changed")
        return header
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"session {folder.name} is damaged: {MANIFEST} is not what was written; {restore}") from error


def check_same(name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises `UserError` naming the first key whose value in session `name` (`theirs`) differs from the expected one (`mine`)."""
    for key in [*mine, *theirs]:
        if key not in theirs or key not in mine or theirs[key] != mine[key]:
            stored, expected = (repr(values[key]) if key in values else "none" for values in (theirs, mine))
            raise UserError(
                f"session {name} was made with {key} {stored}, not {expected}; open it with that {key} or start another session"
            )


def check_gists(name: str, theirs: TreeSpec, mine: TreeSpec) -> None:
    """Raises `UserError` if session `name` has gists of another kind: the model could read its tokens, but not its gists."""
    if theirs.gists != mine.gists:
        raise UserError(
            f"session {name} was made with {theirs.gists} gists, not {mine.gists} ones; read its tokens into a new session: "
            f"python -m scripts.chat_cli --mc --session {name[:60]}-new --regist {name}"
        )


class Column(NamedTuple):
    """File that grows by `size` bytes with every `every`-th block."""

    name: str
    every: int
    size: int


def token_dtype(spec: TreeSpec) -> np.dtype:
    """dtype of tokens.bin."""
    return np.dtype("<u2" if spec.vocab_size <= 1 << 16 else "<u4")


def columns(spec: TreeSpec) -> list[Column]:
    """Columns tokens.bin, lod1.bin …, values<l>.bin …, in the order of the arguments of `MegaContextTree.append`."""
    K, number = spec.geometry.block_size, spec.dtype.itemsize * spec.geometry.slots
    tokens = Column("tokens.bin", 1, K * token_dtype(spec).itemsize)
    gists = [Column(f"lod{level}.bin", K ** (level - 1), spec.width * number) for level in range(1, spec.max_lod + 1)]
    values = [Column(f"values{level}.bin", K ** (level - 1), spec.value_width * number) for level in spec.value_levels]
    return [tokens, *gists, *values]


def checksums(shape: Sequence[Column], data: Sequence[memoryview], first: int, count: int, before: int) -> np.ndarray:
    """Checksums of the blocks `first … first+count−1`, uint32 [count]; `before` is that of the block before them.

    `data` holds the bytes that these blocks add to each column.
    """
    crc32 = zlib.crc32
    each = [(view, column.size) for column, view in zip(shape, data, strict=True) if column.every == 1]
    rarely = [(view, column.size, column.every) for column, view in zip(shape, data, strict=True) if column.every > 1 and len(view)]
    step = min((every for _, _, every in rarely), default=0)
    out = []
    for block in range(count):
        for view, size in each:
            before = crc32(view[block * size : (block + 1) * size], before)
        done = first + block + 1
        if step and done % step == 0:
            for view, size, every in rarely:
                if done % every == 0:
                    at = (done // every - 1 - first // every) * size
                    before = crc32(view[at : at + size], before)
        out.append(before)
    return np.array(out, CHECKSUM)


def verify(shape: Sequence[Column], files: Mapping[str, int], stored: np.ndarray, seed: int) -> int:
    """Number of valid blocks before the first damaged one, given their `stored` checksums.

    `files` are open for reading, by name, and long enough. Reads them in pieces to bound the RAM it takes.
    """
    step = max(1, int(VERIFIED_AT_ONCE / sum(column.size / column.every for column in shape)))
    for first in range(0, len(stored), step):
        expected = stored[first : first + step]
        ranges = [(first // c.every, (first + len(expected)) // c.every) for c in shape]
        data = [memoryview(read_at(files[c.name], a * c.size, (b - a) * c.size)) for c, (a, b) in zip(shape, ranges, strict=True)]
        wrong = checksums(shape, data, first, len(expected), int(stored[first - 1]) if first else seed) != expected
        if wrong.any():
            return first + int(wrong.argmax())
    return len(stored)


def read_at(file: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on. Raises `OSError`, also if the file is too short."""
    parts = []
    while size:
        parts.append(os.pread(file, min(size, 1 << 30), offset))
        if not parts[-1]:
            raise OSError(0, "the file became shorter while it was read")
        offset, size = offset + len(parts[-1]), size - len(parts[-1])
    return b"".join(parts)


def write_at(file: int, data: memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`. Raises `OSError`, after which a part of it may have been written."""
    while len(data):
        written = os.pwrite(file, data[: 1 << 30], offset)
        data, offset = data[written:], offset + written


class Tail(NamedTuple):
    """Incomplete block: the number of complete blocks before it, and its tokens."""

    blocks: int
    tokens: np.ndarray


def write_tail(folder: Path, spec: TreeSpec, tail: Tail, before: int) -> None:
    """Replaces tail.bin atomically; `before` is the checksum of the block before it."""
    head, tokens = _TAIL_HEAD.pack(tail.blocks), tail.tokens.astype(token_dtype(spec)).tobytes()
    atomic_write(folder / TAIL, head + _TAIL_CHECK.pack(zlib.crc32(head + tokens, before)) + tokens)


def read_tail(folder: Path, spec: TreeSpec, stored: np.ndarray, seed: int) -> Tail | str:
    """Contents of tail.bin, or the reason why it is damaged. `stored` and `seed` are as in `verify`."""
    path, begin = folder / TAIL, _TAIL_HEAD.size + _TAIL_CHECK.size
    if not path.exists():
        return f"{TAIL} is missing"
    data = path.read_bytes()
    if len(data) < begin:
        return f"{TAIL} is cut short"
    (blocks,), (check,) = _TAIL_HEAD.unpack_from(data), _TAIL_CHECK.unpack_from(data, _TAIL_HEAD.size)
    if blocks > len(stored):
        return f"{TAIL} follows {blocks:,} blocks and {BLOCKS} has {len(stored):,}"
    if check != zlib.crc32(data[: _TAIL_HEAD.size] + data[begin:], int(stored[blocks - 1]) if blocks else seed):
        return f"{TAIL} is not what was written"
    return Tail(blocks, np.frombuffer(data, token_dtype(spec), offset=begin).astype(np.int64))


def lock(folder: Path) -> int:
    """Locks the session in `folder` for this process and returns the open file; closing it unlocks.

    Raises `UserError` if the session is already open or its folder is not writable.
    """
    try:
        import fcntl
    except ImportError as error:
        raise UserError("sessions on disk need POSIX file locks, which this system lacks; use --mc-tree ram") from error
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to session {folder.name} in {folder.parent}: {error.strerror}; make it writable") from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(file, 20, 0).decode("ascii", "replace").strip()
            who = "already open in this process" if owner == str(os.getpid()) else f"in use by another process (pid {owner or 'unknown'})"
            raise UserError(f"session {folder.name} is {who}; close it there first") from error
        except OSError as error:
            raise UserError(f"cannot lock session {folder.name} in {folder.parent}: {error.strerror}; use a local disk") from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds nevertheless
            os.pwrite(file, f"{os.getpid():<19}\n".encode(), 0)
        stack.pop_all()
    return file


class Unfinished(NamedTuple):
    """Document that is being read: its name and file, and the tokens of the history before its text and at its end."""

    name: str
    path: str | None  # None if the file does not outlive the reading
    begin: int
    end: int

    def read(self, length: int) -> int:
        """Tokens of the text that a history of `length` tokens has."""
        return min(max(0, length - self.begin), self.end - self.begin)

    def describe(self, length: int) -> str:
        """Line for the user of a history of `length` tokens."""
        return f"{self.read(length):,} of {self.end - self.begin:,} tokens of {self.name} were read"


def write_unfinished(folder: Path, document: Unfinished | None) -> None:
    """Marks the session in `folder` as one with a part of `document`; None removes the mark."""
    if document is None:
        (folder / UNFINISHED).unlink(missing_ok=True)
    else:
        write_json(folder / UNFINISHED, document._asdict())


def read_unfinished(folder: Path) -> Unfinished | None:
    """The document of which the session in `folder` may have a part only."""
    if not (folder / UNFINISHED).exists():
        return None
    try:
        return Unfinished(**read_json(folder / UNFINISHED))
    except TypeError as error:
        raise UserError(f"{folder / UNFINISHED} is not what was written; delete it") from error


class SessionInfo(NamedTuple):
    """A session on disk: `modified` in seconds since 1970; `damaged` is the reason if its manifest cannot be read.

    Of `unfinished` it has a part only, because a process was killed.
    """

    name: str
    tokens: int
    bytes: int
    modified: float
    manifest: dict[str, Any]
    damaged: str | None = None
    unfinished: Unfinished | None = None


def list_sessions(root: Path) -> list[SessionInfo]:
    """Sessions in the folder `root`, which may not exist, most recently written first. Neither locks nor verifies them."""
    found = []
    for manifest in root.glob("*/" + MANIFEST):
        with contextlib.suppress(FileNotFoundError, ValueError):  # deleted meanwhile, or a folder that cannot be a session
            found.append(_look_at(root / valid_name(manifest.parent.name)))
    return sorted(found, key=lambda info: (-info.modified, info.name))


def delete_session(root: Path, name: str) -> None:
    """Deletes session `name` in `root`. Raises `UserError` if it is open or does not exist, `ValueError` if the name is invalid."""
    folder = root / valid_name(name)
    if not (folder / MANIFEST).exists():
        raise UserError(f"no session {name} in {root}; nothing was deleted")
    if folder.is_symlink():
        raise UserError(f"session {name} in {root} is a link; delete the link by hand")
    file = lock(folder)
    try:
        gone = root / f".{name}.deleted"  # atomic: half a session would be neither a session nor a free name
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise UserError(f"cannot delete session {name} in {root}: {error.strerror}; delete the folder by hand") from error
    finally:
        os.close(file)


def _written(header: Header) -> bytes:
    """All bytes of manifest.json; a file of other bytes is damaged, even if it is the same JSON."""
    return canonical({"format": FORMAT, "manifest": header.manifest, "spec": header.spec.describe(), "crc32": header.seed})


def _content(manifest: Mapping[str, Any], spec: Mapping[str, Any]) -> bytes:
    return canonical({"format": FORMAT, "manifest": dict(manifest), "spec": dict(spec)})


def _look_at(folder: Path) -> SessionInfo:
    states = {path.name: path.stat() for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(".")}
    size = sum(state.st_size for state in states.values())
    modified = max(state.st_mtime for state in states.values())
    try:
        header = read_header(folder)
        data = (folder / BLOCKS).read_bytes() if BLOCKS in states else b""
        stored = np.frombuffer(data[: len(data) // CHECKSUM.itemsize * CHECKSUM.itemsize], CHECKSUM)
        tail = read_tail(folder, header.spec, stored, header.seed)
        unfinished = read_unfinished(folder)
    except UserError as error:
        return SessionInfo(folder.name, 0, size, modified, {}, str(error))
    waiting = len(tail.tokens) if isinstance(tail, Tail) and tail.blocks == len(stored) else 0
    length = len(stored) * header.spec.geometry.block_size + waiting
    if unfinished is not None and length > unfinished.end:
        unfinished = None  # the kill came after its end
    return SessionInfo(folder.name, length, size, modified, header.manifest, None, unfinished)
