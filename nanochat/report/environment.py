"""Environment of a run: machine, versions, commit, dtype. For reports only; nothing is decided here."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from nanochat.common import ROOT, UserError


def describe_environment() -> dict[str, str]:
    """Names and values for people. Imports torch; facts that this system does not provide are left out.

    Raises `UserError` if NANOCHAT_DTYPE is invalid.
    """
    import torch

    from nanochat.runtime.device import detect_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        precision = detect_precision(device)
    except ValueError as error:
        raise UserError(str(error)) from error
    facts = {"CPU": f"{_cpu_name()}, {os.cpu_count()} cores", "memory": _gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))}
    if device.type == "cuda":
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        facts["GPU"] = f"{len(gpus)} × {gpus[0].name}, {_gib(gpus[0].total_memory)} each"
    facts |= {
        "dtype": f"{precision.name} ({precision.reason})",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
    if commit := source_commit():
        facts["commit"] = commit
    return facts


def source_commit() -> str | None:
    """Commit of this source, with a `+` if tracked files have changed since; None outside a git checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        commit = _git(ROOT, "rev-parse", "--short=12", "HEAD")
        changed = _git(ROOT, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def process_seconds() -> float | None:
    """Wall-clock seconds since this process started; None without /proc."""
    try:
        after_name = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    # Field 22 of stat(5), counted from the third, in clock ticks since boot.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
