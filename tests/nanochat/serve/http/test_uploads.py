"""Temporary folders of uploads: gone at the end, and removed after a kill, but never those of a server that lives."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.serve.http.uploads import remove_leftovers, upload_folder

UPLOAD = """
from nanochat.serve.http.uploads import upload_folder
with upload_folder() as folder:
    (folder / "document").write_text("x")
    print(folder, flush=True)
    input()
"""


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    other = subprocess.Popen([sys.executable, "-c", UPLOAD], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = Path(other.stdout.readline().strip())
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    (tmp_path / "document-link").symlink_to(root)
    (tmp_path / "document-file").write_text("x")
    with upload_folder() as mine:
        assert remove_leftovers() == 0 and mine.is_dir() and (folder / "document").exists()
        other.send_signal(signal.SIGKILL)
        other.communicate()
        assert remove_leftovers() == 1 and mine.is_dir() and not folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["document-file", "document-link"]
