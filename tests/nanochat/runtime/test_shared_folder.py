"""Check of the shared folder in a single process; tests of base_train in two processes have one that is not shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.runtime import shared_folder
from nanochat.runtime.shared_folder import check_shared


def test_a_process_alone_shares_with_itself_and_leaves_nothing(tmp_path: Path) -> None:
    check_shared(tmp_path / "new", 0)
    assert not list((tmp_path / "new").iterdir())


def test_a_file_that_does_not_appear_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "WAIT_SECONDS", 0.1)
    answers = iter([["never-written"], [["a", "/x", True], ["b", "/y", shared_folder._appears(tmp_path / "never-written")]]])
    monkeypatch.setattr(shared_folder, "gather_json", lambda value: next(answers))
    with pytest.raises(UserError, match=r"^rank 1 on b does not share the base folder of rank 0: /y there is not /x on a; give all"):
        check_shared(tmp_path, 1)
