"""Files of a folder or glob, through links, each once."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import UserError, base_dir, typed_path
from nanochat.data.left_out import LeftOut


@dataclass(frozen=True)
class FoundFile:
    """A file by the path that was found, whose name says its type, and by its own path, which may be that of a nameless blob."""

    path: Path
    real: str  # with all links resolved
    name: str  # relative to the root of the dataset
    size: int  # bytes
    mtime_ns: int

    @property
    def is_linked(self) -> bool:
        """Whether it was found through a link below the root."""
        return not self.real.endswith(f"/{self.name}")


def find_files(pattern: str, left_out: LeftOut) -> tuple[list[FoundFile], bool]:
    """The files of a folder, of a glob or the file itself, sorted; and whether they were named by the user, one by one or by a glob.

    In a folder, hidden files and folders and the base folder are passed over. `left_out` counts links that lead nowhere or in a
    circle. Raises `UserError` if a folder cannot be read.
    """
    root = typed_path(pattern)
    if root.is_dir():
        return sorted(_walk(root, "", left_out), key=_order), False
    if root.is_symlink() and not root.exists():
        raise UserError(f"{root} is a broken link: {os.readlink(root)} does not exist; get its contents first")
    if root.exists() and not root.is_file():
        raise UserError(f"{root} is neither a file nor a folder; give the name of one")
    paths = [root] if root.exists() else sorted(_matching(str(root), left_out))
    files = [path for path in paths if path.is_file()]
    folder = Path(os.path.commonpath([path.parent for path in files or paths])) if paths else root
    for path in paths:
        if not path.is_file() and (files or not path.is_dir()):
            why = "folder beside files" if path.is_dir() else "not a regular file" if path.exists() else "broken link"
            left_out.add("file", why, os.path.relpath(path, folder))
    if files:
        return [_found(path, os.path.realpath(path), str(path.relative_to(folder)), path.stat()) for path in files], True
    found = (file for path in paths if path.is_dir() for file in _walk(path, f"{path.relative_to(folder)}/", left_out))
    return sorted(found, key=_order), False


def _matching(pattern: str, left_out: LeftOut) -> Iterator[Path]:
    """The paths that match a glob. `**` goes through links, as that of `glob` does, but not in circles, where that takes forever."""
    before, deep, after = f"{pattern}/*".partition("**/") if pattern.endswith("**") else pattern.partition("**/")
    if not deep:
        yield from map(Path, glob.glob(pattern))
        return
    for folder in glob.glob(before or "."):
        for file in _walk(Path(folder), "", left_out) if os.path.isdir(folder) else ():
            if _fits(file.name.split("/"), ["**", *after.split("/")]):
                yield file.path


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Whether the names on a path fit the patterns, of which `**` fits any folders."""
    if not names or not patterns:
        return not names and not patterns
    if patterns[0] == "**":
        return any(_fits(names[i:], patterns[1:]) for i in range(len(names)))
    return fnmatch.fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def _order(file: FoundFile) -> list[str]:
    return file.name.split("/")


def _walk(root: Path, before: str, left_out: LeftOut) -> Iterator[FoundFile]:
    """The files below `root`, in any order. A folder that several paths lead to is read once, by its own path if that lies below `root`."""
    home, artefacts = os.path.realpath(root), os.path.realpath(base_dir())
    folders, links, seen = deque([(str(root), home, before)]), deque[tuple[str, str, str]](), set[str]()
    while folders or links:
        folder, real, name = (folders or links).popleft()
        is_circle = name != before and f"{home}/".startswith(f"{real}/")
        if is_circle or real in seen:
            left_out.add("file", "link in a circle" if is_circle else "link to what is read already", name.rstrip("/"))
            continue
        seen.add(real)
        for entry in _entries(folder):
            here, is_link = name + entry.name, entry.is_symlink()
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise _unreadable(entry.path, error) from error
                left_out.add("file", "broken link" if error.errno == errno.ENOENT else "link in a circle", here)
                continue
            own = os.path.realpath(entry.path) if is_link else f"{real}/{entry.name}"
            if stat.S_ISDIR(status.st_mode):
                if own != artefacts:
                    (links if is_link else folders).append((entry.path, own, f"{here}/"))
            elif stat.S_ISREG(status.st_mode):
                yield _found(Path(entry.path), own, here, status)
            else:
                left_out.add("file", "not a regular file", here)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _found(path: Path, real: str, name: str, status: os.stat_result) -> FoundFile:
    return FoundFile(path, real, name, status.st_size, status.st_mtime_ns)


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}; change its permissions, or move it out of the dataset")
