"""Manifest of a folder: size and SHA-256 of each file, so that what is read is what was written."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.checkpoint.open_file import OpenFile

FORMAT = "nanochat-checkpoint-1"
MANIFEST = "manifest.json"
META = "meta.json"
Buffer = bytes | mmap.mmap
_CHUNK_BYTES = 8 << 20


class InvalidError(Exception):
    """A file is not what was written; the message says why in one line."""


def canonical(value: Any) -> bytes:
    """The one way to write `value`, so that a changed byte in a manifest shows even if JSON would read the same."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode("utf-8")


def write_file(path: Path, data: Buffer) -> dict[str, Any]:
    """Writes and syncs a new file; returns its manifest entry, computed from memory and not from what landed on disk."""
    digest, view = hashlib.sha256(), memoryview(data)
    with open(path, "xb") as f:
        for start in range(0, len(view), _CHUNK_BYTES):
            piece = view[start : start + _CHUNK_BYTES]
            digest.update(piece)
            f.write(piece)
        f.flush()
        os.fsync(f.fileno())
    return {"bytes": len(view), "sha256": digest.hexdigest()}


def write_manifest(folder: Path, step: int, files: Mapping[str, Any]) -> None:
    """Writes and syncs the manifest of `folder`: `files` maps names to the entries of `write_file`."""
    write_file(folder / MANIFEST, canonical({"format": FORMAT, "step": step, "files": files}))


def read_manifest(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    """The entries of the files in `folder`. Raises `InvalidError` if the manifest is not the one written for `step`."""
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = json.loads(data)
    except OSError as error:
        raise InvalidError(f"{MANIFEST}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InvalidError(f"{MANIFEST} is not of format {FORMAT}")
    if manifest.get("step") != step:
        raise InvalidError(f"{MANIFEST} is of step {manifest.get('step')!r}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()) or data != canonical(manifest):
        raise InvalidError(f"{MANIFEST} was changed after it was written")
    if META not in files:
        raise InvalidError(f"{MANIFEST} does not list {META}")
    return files


def open_file(path: Path, expected: Mapping[str, Any]) -> OpenFile:
    """The file at `path`. Raises `InvalidError` if it cannot be read or its size is not that of its entry."""
    with _readable(path):
        file = OpenFile(path)
    if file.bytes != expected.get("bytes"):
        raise InvalidError(f"{path.name} has {file.bytes} bytes instead of {expected.get('bytes')}")
    return file


def check_digest(file: OpenFile, expected: Mapping[str, Any]) -> None:
    """Raises `InvalidError` if the content of `file` is not that of its entry."""
    with _readable(file.path):
        sha256 = file.sha256()
    if sha256 != expected.get("sha256"):
        raise InvalidError(f"{file.path.name} was changed after it was written: its SHA-256 is not the one in {MANIFEST}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidError(f"{path.name}: {error.strerror or error}") from error
