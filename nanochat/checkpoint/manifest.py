"""Manifest of a folder: size and SHA-256 of each file, so that what is read is what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

FORMAT = "nanochat-checkpoint-1"
MANIFEST = "manifest.json"
META = "meta.json"


class InvalidError(Exception):
    """A file is not what was written; the message says why in one line."""


def canonical(value: Any) -> bytes:
    """The one way to write `value`, so that a changed byte in a manifest shows even if JSON would read the same."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode("utf-8")


def write_file(path: Path, data: bytes) -> dict[str, Any]:
    """Writes and syncs a new file; returns its manifest entry, computed from memory and not from what landed on disk."""
    with open(path, "xb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


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


def check_file(path: Path, expected: Mapping[str, Any], size_only: bool = False) -> None:
    """Raises `InvalidError` if the file at `path` differs from its entry in size, or in digest unless `size_only`."""
    with _opened(path, expected) as f:
        if not size_only:
            _compare(path, expected, hashlib.file_digest(f, "sha256").hexdigest())


def read_file(path: Path, expected: Mapping[str, Any]) -> bytes:
    """The bytes of the file at `path`, verified. Raises `InvalidError`."""
    with _opened(path, expected) as f:
        data = f.read()
    _compare(path, expected, hashlib.sha256(data).hexdigest())
    return data


@contextmanager
def _opened(path: Path, expected: Mapping[str, Any]) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size != expected.get("bytes"):
                raise InvalidError(f"{path.name} has {size} bytes instead of {expected.get('bytes')}")
            yield f
    except OSError as error:
        raise InvalidError(f"{path.name}: {error.strerror}") from error


def _compare(path: Path, expected: Mapping[str, Any], sha256: str) -> None:
    if sha256 != expected.get("sha256"):
        raise InvalidError(f"{path.name} was changed after it was written: its SHA-256 is not the one in {MANIFEST}")
