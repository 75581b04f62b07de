"""What of the file system the sandbox shows."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from nanochat.common import ROOT
from nanochat.sandbox import isolation
from nanochat.sandbox.isolation import find_backends, interpreter, visible_files
from nanochat.sandbox.run import Limits, run_with

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
MIB = 1 << 20


def test_only_the_system_and_the_interpreter_are_shown() -> None:
    allowed = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache"}
    prefix = os.path.realpath(sys.base_prefix)
    for kind, path, *_ in visible_files(MIB):
        assert kind in ("bind", "link", "tmpfs")
        if kind == "bind":
            assert path in allowed or path == interpreter() or path.startswith(prefix + "/lib"), path
    writable = {path for kind, path, *options in visible_files(MIB) if kind == "tmpfs" and options[0]}
    assert writable == {"/tmp", "/dev/shm"}


def test_folders_of_the_user_inside_of_the_system_are_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    private = next(path for path in map(Path, ("/usr/share/doc", "/usr/share/man", "/usr/share/zoneinfo")) if path.is_dir())
    code = f"import os\nprint(os.listdir({str(private)!r}), os.path.isdir('/usr/share'))\nopen('{private}/f', 'w')"
    backends = find_backends()
    if not backends:
        pytest.skip("no isolation here")
    for backend in backends:
        monkeypatch.delenv("NANOCHAT_BASE_DIR", raising=False)
        assert not run_with(backend, code, Limits(seconds=30)).stdout.startswith("[] True")
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(private))
        result = run_with(backend, code, Limits(seconds=30))
        assert result.stdout == "[] True\n"
        assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr


def test_installed_packages_are_covered() -> None:
    packages = Path(os.path.realpath(sysconfig.get_path("stdlib"))) / "site-packages"
    if not packages.is_dir():
        pytest.skip("this interpreter has no site-packages of its own")
    for backend in find_backends():
        assert run_with(backend, f"import os\nprint(os.listdir({str(packages)!r}))", Limits(seconds=30)).stdout == "[]\n"


def test_the_root_is_the_checkout() -> None:
    """What is covered is all of it: every package of ours lies below."""
    assert (ROOT / "pyproject.toml").is_file() and ROOT.is_absolute()
    assert all((ROOT / package / "__init__.py").is_file() for package in ("nanochat", "mc", "scripts", "rustbpe"))
    assert Path(isolation.__file__).resolve().is_relative_to(ROOT / "nanochat")


def test_a_checkout_inside_of_the_system_is_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the checkout is: its root, not some folder of it, is hidden from model-written code."""
    checkout = next(path for path in map(Path, ("/usr/share/doc", "/usr/share/man", "/usr/share/zoneinfo")) if path.is_dir())
    monkeypatch.setattr(isolation, "ROOT", checkout)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert ("tmpfs", str(checkout), 0, 0o555) in visible_files(MIB)
    for backend in find_backends():
        assert run_with(backend, f"import os\nprint(os.listdir({str(checkout)!r}))", Limits(seconds=30)).stdout == "[]\n"
