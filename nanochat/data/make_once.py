"""Artefacts on disk that one process makes while the others wait, and that appear in one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from nanochat.common import UserError, ensure_dir, fsync_dir


def make_once(path: Path, make: Callable[[], None], proof: str = "", is_current: Callable[[], bool] = lambda: True) -> bool:
    """Calls `make`, which makes `path`, if `path / proof` does not exist yet or is not current; returns whether it did."""

    def is_made() -> bool:
        return (path / proof).exists() and is_current()

    if is_made():
        return False
    ensure_dir(path.parent)
    with FileLock(path.with_name(f".{path.name}.lock")):
        missing = not is_made()
        if missing:
            make()
    return missing


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends, and is removed if it fails.

    Raises `UserError` if the disk is full or read-only.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
        fsync_dir(folder.parent)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; free some space or set NANOCHAT_BASE_DIR elsewhere") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
