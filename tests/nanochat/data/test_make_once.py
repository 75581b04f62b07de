"""Artefacts that are made once, whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.data.make_once import make_once, new_folder


def test_one_makes_and_the_others_wait(tmp_path: Path) -> None:
    made: list[bool] = []
    folder = tmp_path / "below" / "folder"

    def make() -> None:
        with new_folder(folder) as temporary:
            (temporary / "proof").touch()

    threads = [threading.Thread(target=lambda: made.append(make_once(folder, make, proof="proof"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    (folder / "proof").unlink()
    (folder / "other").touch()
    assert make_once(folder, make, proof="proof") and [path.name for path in folder.iterdir()] == ["proof"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".folder.tmp" / "half").touch()
    for error, expected in ((RuntimeError("no"), RuntimeError), (OSError(28, "No space left on device"), UserError)):
        with pytest.raises(expected, match="no|cannot write .*folder: No space left on device"), new_folder(tmp_path / "folder") as folder:
            assert list(folder.iterdir()) == []
            (folder / "half").touch()
            raise error
        assert list(tmp_path.iterdir()) == []
