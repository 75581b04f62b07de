"""The sessions that lie in a folder: what there is, and deleting one."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mc.session_files import BLOCKS, CHECKSUM, LOCK, MANIFEST, Tail, lock, read_header, read_tail, valid_name
from nanochat.common import UserError


class SessionInfo(NamedTuple):
    """A session as it lies on disk: `modified` in seconds since 1970; `damaged` says why its manifest cannot be read, if so."""

    name: str
    tokens: int
    bytes: int
    modified: float
    manifest: dict[str, Any]
    damaged: str | None = None


def list_sessions(root: Path) -> list[SessionInfo]:
    """The sessions in the folder `root`, the one written last first. Locks and checks nothing; there may be none."""
    found = []
    for manifest in root.glob("*/" + MANIFEST):
        with contextlib.suppress(FileNotFoundError, ValueError):  # deleted meanwhile, or a folder that cannot be a session
            found.append(_look_at(root / valid_name(manifest.parent.name)))
    return sorted(found, key=lambda info: (-info.modified, info.name))


def _look_at(folder: Path) -> SessionInfo:
    states = {path.name: path.stat() for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(".")}
    size = sum(state.st_size for state in states.values())
    modified = max(state.st_mtime for state in states.values())
    try:
        header = read_header(folder)
        data = (folder / BLOCKS).read_bytes() if BLOCKS in states else b""
        stored = np.frombuffer(data[: len(data) // CHECKSUM.itemsize * CHECKSUM.itemsize], CHECKSUM)
        tail = read_tail(folder, header.spec, stored, header.seed)
    except UserError as error:
        return SessionInfo(folder.name, 0, size, modified, {}, str(error))
    waiting = len(tail.tokens) if isinstance(tail, Tail) and tail.blocks == len(stored) else 0
    return SessionInfo(folder.name, len(stored) * header.spec.geometry.block_size + waiting, size, modified, header.manifest)


def delete_session(root: Path, name: str) -> None:
    """Deletes session `name` in `root`. Raises `UserError` where it is open or there is none, `ValueError` for no name."""
    folder = root / valid_name(name)
    if not (folder / MANIFEST).exists():
        raise UserError(f"no session {name} in {root}; nothing was deleted")
    if folder.is_symlink():
        raise UserError(f"session {name} in {root} is a link; delete the link by hand")
    file = lock(folder)
    try:
        gone = root / f".{name}.deleted"  # in one step: half a session would be neither one nor a free name
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise UserError(f"cannot delete session {name} in {root}: {error.strerror}; delete the folder by hand") from error
    finally:
        os.close(file)
