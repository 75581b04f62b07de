"""Temporary folders of uploaded documents. Those that a killed server left are removed when the next one starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "document-"


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """An empty folder that only this user may read; removed at the end. It is locked: the kernel unlocks those of killed processes."""
    made = Path(tempfile.mkdtemp(prefix="new-document-"))
    folder = made.with_name(made.name.removeprefix("new-"))
    lock = os.open(made, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.rename(folder)  # from here on others see it, and that it is locked
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers() -> int:
    """Removes the uploads of this user that no living process has; returns how many."""
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.ExitStack() as stack:
            try:
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                stack.callback(os.close, lock)
                if os.fstat(lock).st_uid != os.geteuid():
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # in use, of another user, or no folder
                continue
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count
