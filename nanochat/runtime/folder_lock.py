"""Lock on a folder, so that one run at a time writes to it, also from machines that share the disk.

The kernel ends its lock on `lock.json` with the process that holds it, so what a dead one left behind is recognised at once. Two
machines may not see each other's kernel locks: there the age of the file counts, which its holder renews. A run that torchrun starts
again, perhaps on another machine, need not wait for that age: the lock names the run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat.common import UserError, encoded, ensure_dir, shown
from nanochat.runtime.elastic import run_id

FILE = "lock.json"
RENEW_SECONDS = 20.0
DEAD_SECONDS = 120.0  # age at which the lock of another machine counts as left behind
_NO_KERNEL_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """Process that holds a lock. `kernel` identifies the boot of its machine: containers on it share its kernel locks."""

    pid: int
    host: str
    since: str
    kernel: str
    run: str = ""  # name that torchrun gives all starts of a run

    def __str__(self) -> str:
        return f"process {self.pid} on {shown(self.host)}, since {shown(self.since)}"


class FolderLock:
    """Held lock on a folder; see `hold`."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self._path, self._descriptor, self._holder = path, descriptor, holder
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._renewing.start()

    def check(self) -> None:
        """Raises `UserError` if another run has taken the lock, because this machine slept or was cut off from the disk."""
        try:
            holder = _read(self._path)
        except OSError:  # the disk is away: the save tells, and the next check sees what happened in between
            return
        if holder not in (None, self._holder):
            raise UserError(f"{self._path.parent} was taken over by {holder}, because this run gave no sign of life; it writes no more")

    def release(self) -> None:
        """Lets others have the folder."""
        self._released.set()
        self._renewing.join()
        with contextlib.suppress(OSError):  # a disk that is away keeps a lock that ends by its age
            if _read(self._path) == self._holder:
                self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # the disk may come back; `check` sees what happened in between
                os.utime(self._descriptor)


@contextlib.contextmanager
def hold(folder: Path, say: Callable[[str], None], otherwise: str) -> Iterator[FolderLock]:
    """Holds the lock on `folder`, which is made if it is missing. Says so if a dead process left a lock behind.

    Raises `UserError` if another process holds it; the message ends with what to do `otherwise`.
    """
    lock = _take(ensure_dir(folder) / FILE, say, otherwise)
    try:
        yield lock
    finally:
        lock.release()


def _take(path: Path, say: Callable[[str], None], otherwise: str) -> FolderLock:
    me = Holder(os.getpid(), platform.node(), time.strftime("%Y-%m-%d %H:%M:%S %Z"), _kernel(), run_id())
    began = time.monotonic()
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            alone = _lock(descriptor)
            if alone is False:
                holder = _read(path)
                if _is_earlier_start(holder, me) and time.monotonic() < began + DEAD_SECONDS:  # it is about to end
                    os.close(descriptor)
                    time.sleep(0.1)
                    continue
                raise UserError(f"{path.parent} is in use by {holder or 'another process'}; wait for it, {otherwise}")
            if not _is_at(descriptor, path):  # its holder has removed it since it was opened
                os.close(descriptor)
                continue
            left = _read(path)
            if left is not None and not (alone and left.kernel == me.kernel) and not _is_earlier_start(left, me):
                _check_age(path, descriptor, left, otherwise)
            if left is not None:
                say(f"the lock of {path.parent} was left behind by {left}, which has ended; taken over")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, encoded(json.dumps(asdict(me), indent=1) + "\n"), 0)
        except OSError as error:
            os.close(descriptor)
            raise _unwritable(path, error) from error
        except UserError:
            os.close(descriptor)
            raise
        return FolderLock(path, descriptor, me)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror}; make room, or set NANOCHAT_BASE_DIR to another folder")


def _is_earlier_start(holder: Holder | None, me: Holder) -> bool:
    return holder is not None and me.run != "" and holder.run == me.run


def _check_age(path: Path, descriptor: int, left: Holder, otherwise: str) -> None:
    """Raises `UserError` if the lock of a process that cannot be looked for has been renewed lately, by the clock of the disk."""
    with tempfile.TemporaryFile(dir=path.parent) as new:
        age = os.fstat(new.fileno()).st_mtime - os.fstat(descriptor).st_mtime
    if age < -RENEW_SECONDS:
        raise UserError(
            f"{path.parent} is in use by {left}, whose last sign of life lies {round(-age):,} s in the future, as after a clock was set "
            f"back; if it has died, delete {path}; else wait for it, {otherwise}"
        )
    if age < DEAD_SECONDS:
        raise UserError(
            f"{path.parent} is in use by {left}, which gave a sign of life {max(0, round(age))} s ago; if it has died, its lock ends in "
            f"{round(DEAD_SECONDS - age)} s; wait for it, {otherwise}"
        )


def _lock(descriptor: int) -> bool | None:
    """Takes the kernel's lock: False if another process has it, None if the disk has no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in _NO_KERNEL_LOCKS:
            return None
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read(path: Path) -> Holder | None:
    """The holder that the file names; None if there is no file, or it was cut off while it was written, or is no lock's."""
    try:
        holder = Holder(**json.loads(path.read_bytes()))
        return holder if [*map(type, asdict(holder).values())] == [int, str, str, str, str] else None
    except (FileNotFoundError, ValueError, RecursionError, TypeError):
        return None


def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return platform.node()
