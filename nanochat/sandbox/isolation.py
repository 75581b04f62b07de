"""Isolation of a process: command lines of bubblewrap and `unshare`, and the part of the file system that is visible inside.

Both create new user, mount, PID, network, IPC, UTS and cgroup namespaces. If the host's user is root, the code runs as a second,
unused user of a new user namespace: limits on processes do not apply to root, and root would own files such as those in /proc/sys.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat.common import ROOT, base_dir

BackendName = Literal["bubblewrap", "unshare"]

WORK_DIR = "/tmp"  # inside the sandbox
RUNNER_UID = 65534  # inside the sandbox
# On the host, if it is root: a range that systemd documents as unused (UIDS-GIDS.md).
HOST_RUNNER_UID = 1_879_048_192
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # for the `sh` between us and the sandbox
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_NAMESPACES = ("pid", "net", "ipc", "uts")
# Waits in its new user namespace until the host has written the user map, then starts the program with the rights of that map.
_WAIT_FOR_MAP = 'echo mapped? >&0 && read -r _ && exec "$@"'

Mount = tuple[Any, ...]  # ("bind", path), ("link", path, target) or ("tmpfs", path, bytes, mode); 0 bytes: empty and read-only


@dataclass(frozen=True)
class IsolationBackend:
    """Isolation method: the paths of its tools, and whether it starts as root of the host."""

    name: BackendName
    tools: tuple[str, ...]
    as_root: bool

    @property
    def runner_uid(self) -> int | None:
        """User to switch to before the code runs; None to keep the user."""
        return RUNNER_UID if self.as_root else None

    @property
    def extra_processes(self) -> int:
        """Processes that the kernel counts in addition to the runner's, as they have the same user and user namespace.

        They are the supervisor and, with `unshare`, the process that waits for it.
        """
        return 0 if self.as_root else 2 if self.name == "unshare" else 1

    @property
    def maps_users(self) -> bool:
        """True if `write_user_map` must be called between the start of the command and its job."""
        return self.as_root or self.name == "unshare"

    def command(self, mounts: list[Mount], program: list[str]) -> list[str]:
        """Command that starts `program` as process 1 of a sandbox with the file system `mounts`, /dev and /proc.

        With "unshare" the program must build that file system itself (`child.build_root`).
        """
        unshare = self.tools[-1]
        if self.name == "unshare":
            command = [unshare, "--mount", *(f"--{name}" for name in _NAMESPACES), "--cgroup", "--fork", "--kill-child", "--", *program]
        else:
            command = [self.tools[0], *_bubblewrap_flags(mounts, self.as_root), "--", *program]
        return [unshare, "--user", "--", "sh", "-c", _WAIT_FOR_MAP, "sh", *command] if self.maps_users else command

    def write_user_map(self, pid: int) -> None:
        """Defines the users in the new user namespace of `pid`. Raises `OSError` if the system forbids it."""
        folder = Path(f"/proc/{pid}")
        if self.as_root:
            both = f"0 0 1\n{RUNNER_UID} {HOST_RUNNER_UID} 1\n"
            (folder / "uid_map").write_text(both)
            (folder / "gid_map").write_text(both)
        else:
            (folder / "setgroups").write_text("deny")
            (folder / "uid_map").write_text(f"0 {os.geteuid()} 1\n")
            (folder / "gid_map").write_text(f"0 {os.getegid()} 1\n")


def find_backends() -> list[IsolationBackend]:
    """Backends whose tools are on the PATH, the better one first. Only a trial shows whether the system allows them."""
    if sys.platform != "linux":
        return []
    as_root = _is_host_root()
    bubblewrap, unshare = shutil.which("bwrap"), shutil.which("unshare")
    found = []
    if bubblewrap and (unshare or not as_root):
        found.append(IsolationBackend("bubblewrap", (bubblewrap, unshare) if unshare else (bubblewrap,), as_root))
    if unshare:
        found.append(IsolationBackend("unshare", (unshare,), as_root))
    return found


def interpreter() -> str:
    """Path of the Python interpreter itself, without a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def visible_files(work_bytes: int) -> list[Mount]:
    """Contents of the sandbox: system folders and this interpreter with its library, read-only, and two empty folders.

    Folders of the user inside those (home, checkout, artefacts) and installed packages are covered by empty folders.
    """
    mounts: list[Mount] = [("tmpfs", WORK_DIR, work_bytes, 0o1777), ("tmpfs", "/dev/shm", work_bytes, 0o1777)]
    bound: list[Path] = []
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            mounts.append(("link", name, os.readlink(path)))
        elif path.is_dir():
            mounts.append(("bind", name))
            bound.append(path)
    if Path("/etc/ld.so.cache").exists():
        mounts.append(("bind", "/etc/ld.so.cache"))  # the loader finds /usr/local/lib by it

    prefix = Path(os.path.realpath(sys.base_prefix))
    library = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    private = {os.path.expanduser("~"), ROOT, base_dir(), tempfile.gettempdir()}
    covered = sorted(
        path
        for path in {Path(os.path.realpath(name)) for name in private}
        if path.is_dir() and any(folder in path.parents for folder in bound)
    )
    mounts += [("tmpfs", str(path), 0, 0o555) for path in covered]
    parts = {Path(interpreter()), library.parent, prefix / sys.platlibdir}
    for path in sorted(part for part in parts if part.exists()):
        inside = next((folder for folder in bound if folder in (path, *path.parents)), None)
        if inside is None or any(cover in (path, *path.parents) for cover in covered):
            mounts.append(("bind", str(path)))
            bound.append(path)
    packages = library / "site-packages"
    if packages.is_dir() and not any(cover in packages.parents for cover in covered):
        mounts.append(("tmpfs", str(packages), 0, 0o555))
    return mounts


def _is_host_root() -> bool:
    """True for root of the machine, not of a container's user namespace."""
    if os.geteuid() != 0:
        return False
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]


def _bubblewrap_flags(mounts: list[Mount], as_root: bool) -> list[str]:
    flags = [f"--unshare-{name}" for name in _NAMESPACES]
    flags += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "sandbox"]
    flags += ["--cap-drop", "ALL"]
    if as_root:
        flags += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # for the supervisor, to make the runner another user
    else:
        flags += ["--unshare-user", "--uid", str(RUNNER_UID), "--gid", str(RUNNER_UID)]
    # /dev first: its own mount would cover /dev/shm.
    flags += ["--proc", "/proc", "--dev", "/dev"]
    made: set[Path] = set()
    for kind, name, *options in mounts:
        for parent in reversed(Path(name).parents[:-1]):
            if parent not in made and not any(Path(m[1]) in (parent, *parent.parents) for m in mounts if m[0] == "bind"):
                flags += ["--perms", "0755", "--dir", str(parent)]
            made.add(parent)
        if kind == "bind":
            flags += ["--ro-bind", name, name]
        elif kind == "link":
            flags += ["--symlink", options[0], name]
        else:
            size, mode = options
            flags += ["--perms", f"{mode:04o}", "--size", str(size or 4096), "--tmpfs", name]
            flags += ["--remount-ro", name] if size == 0 else []
    return [*flags, "--remount-ro", "/dev", "--remount-ro", "/proc", "--remount-ro", "/", "--chdir", WORK_DIR]
