"""Basics: the error that a user can act on, the artefact folder, atomic files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import json
import os
import tempfile
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# The checkout. Defined in this file only: the sandbox hides everything below it from model-written code.
ROOT = Path(__file__).resolve().parent.parent
_JOINERS = "\u200c\u200d"


class UserError(Exception):
    """An error that the user can fix. The message is one line: what, where, what to do.

    Scripts print it as `error: …` and exit with code 1 (see `flags.run`).
    """


def base_dir() -> Path:
    """Folder of all artefacts: `$NANOCHAT_BASE_DIR`, by default `~/.cache/nanochat`. Does not create it.

    Raises `UserError` if there is no home folder, or its name is not UTF-8: compilers and libraries refuse such paths in ways of their own.
    """
    name = os.path.expanduser(os.environ.get("NANOCHAT_BASE_DIR") or "~/.cache/nanochat")
    folder = Path(name)
    if name.startswith("~"):
        raise UserError(f"invalid base folder {shown(folder)}: there is no such home folder; set NANOCHAT_BASE_DIR to a folder")
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"invalid base folder {os.fsencode(folder)!r}: its name is not UTF-8; set NANOCHAT_BASE_DIR to another") from error
    return folder


def typed_path(text: str) -> Path:
    """The path that a user typed, with `~` replaced. Raises `UserError` for one too long for any file or in a home that is none."""
    expanded = os.path.expanduser(text)
    path = Path(expanded)
    try:
        path.lstat()
    except OSError as error:
        if expanded.startswith("~"):
            name = shown(text)
            raise UserError(f"cannot find {name}: there is no such home folder; write ./{name} for a file of that name") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"cannot read {shown(text[:60])}…: {error.strerror}") from error
    return path


def ensure_dir(path: Path) -> Path:
    """Creates `path` with its parents. Raises `UserError` if that fails or no file can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; set NANOCHAT_BASE_DIR to a writable folder") from error
    return path


def encoded(text: str) -> bytes:
    """`text` as UTF-8; bytes of a file name that is not UTF-8 are spelled `\\udc…`, which JSON reads back as the same name."""
    return text.encode("utf-8", "backslashreplace")


def fsync_dir(path: Path) -> None:
    """Syncs the folder `path`: a rename is not durable before its folder is."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: Path, data: str | bytes) -> None:
    """Replaces `path` by `data` in one step: a reader, or a crash, sees the old file or the new one.

    Raises `UserError` if the disk is full or the folder read-only; the old file is then intact.
    """
    payload = encoded(data) if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(payload)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}; the previous file is unchanged") from error


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as indented JSON, atomically. Raises `ValueError` for NaN and infinity, which JSON lacks."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(path, text)


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises `UserError` if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); delete it and make it again") from error


def batched_by_chars(texts: Iterable[str], chars: int) -> Iterator[list[str]]:
    """`texts` in lists of at least `chars` characters each, except the last one."""
    batch: list[str] = []
    gathered = 0
    for text in texts:
        batch.append(text)
        gathered += len(text)
        if gathered >= chars:
            yield batch
            batch, gathered = [], 0
    if batch:
        yield batch


def digest(*values: object) -> str:
    """16 hex digits that differ for different `values`, by their `repr`."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def source_digest() -> str:
    """16 hex digits that differ for different versions of this repository's modules."""
    files = sorted(path for package in ("scripts", "mc", "nanochat", "rustbpe") for path in (ROOT / package).rglob("*.py"))
    return digest(*((str(path.relative_to(ROOT)), path.read_bytes()) for path in files))


def first_line(error: Exception) -> str:
    """The first line of an error's message; its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a line on the terminal: bytes that are not UTF-8 and control characters become escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable(text: str, kept: str = "") -> str:
    """`text` with U+FFFD for each character that controls a terminal or the direction of text, except those in `kept`.

    Spaces of all scripts and the two joiners, of which emoji and Persian words are made, stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept or c in _JOINERS or unicodedata.category(c) == "Zs" else "\ufffd" for c in text)


def is_loopback(host: str) -> bool:
    """True if `host`, a name or an address, is this machine, so that no other can reach a port bound to it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
