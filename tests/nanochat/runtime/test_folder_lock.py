"""The lock on a run's folder: between processes, and between machines that share nothing but the disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nanochat.common import ROOT, UserError
from nanochat.runtime import folder_lock
from nanochat.runtime.folder_lock import DEAD_SECONDS, FILE, hold

OTHERWISE = "or use another --model-tag"


def left_behind(folder: Path, age: float, **more: object) -> dict[str, object]:
    """Writes the lock of a process of another machine that was renewed `age` seconds ago."""
    holder = {"pid": 7, "host": "far", "since": "2026-01-02 03:04:05 UTC", "kernel": "another"} | more
    (folder / FILE).write_text(json.dumps(holder))
    os.utime(folder / FILE, (time.time() - age,) * 2)
    return holder


def take(folder: Path) -> list[str]:
    """Takes the lock and releases it; returns what was said."""
    said: list[str] = []
    with hold(folder, said.append, OTHERWISE):
        assert json.loads((folder / FILE).read_text())["pid"] == os.getpid()
    assert not (folder / FILE).exists()
    return said


def holding(folder: Path) -> subprocess.Popen[str]:
    """A process that has taken the lock and sleeps."""
    code = (
        "import sys, time; from pathlib import Path; from nanochat.runtime.folder_lock import hold\n"
        "with hold(Path(sys.argv[1]), print, ''): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_clock_that_was_set_back_is_said(tmp_path: Path) -> None:
    left_behind(tmp_path, age=-1000, host="far\x1b[31m")
    with pytest.raises(UserError, match=r"by process 7 on far\\x1b\[31m, .* lies (999|1,000) s in the future, .* delete .*lock.json; else"):
        take(tmp_path)


@pytest.mark.parametrize("more", [{"pid": "7"}, {"host": {}}, {"since": 3}, {"run": [1]}])
def test_a_file_that_names_no_holder_is_no_lock(tmp_path: Path, more: dict[str, object]) -> None:
    left_behind(tmp_path, age=1, **more)
    assert take(tmp_path) == []


def test_a_free_folder_is_taken_and_freed_without_a_word(tmp_path: Path) -> None:
    assert take(tmp_path / "new" / "folder") == take(tmp_path / "new" / "folder") == []


def test_a_living_process_is_named_and_a_dead_one_gives_way(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        since = json.loads((tmp_path / FILE).read_text())["since"]
        expected = f"is in use by process {process.pid} on .*, since {since}; wait for it, {OTHERWISE}$"
        for number in (0, signal.SIGSTOP):
            process.send_signal(number)  # one that is stopped is alive
            os.utime(tmp_path / FILE, (0, 0))
            with pytest.raises(UserError, match=expected):
                take(tmp_path)
        assert (tmp_path / FILE).exists()
        process.kill()
    (said,) = take(tmp_path)
    assert f"was left behind by process {process.pid}" in said


def test_the_lock_of_another_machine_counts_while_it_is_renewed(tmp_path: Path) -> None:
    left_behind(tmp_path, age=DEAD_SECONDS / 2)
    expected = r"in use by process 7 on far, since 2026-01-02 03:04:05 UTC, which gave a sign of life (59|60|61) s ago"
    with pytest.raises(UserError, match=expected):
        take(tmp_path)
    left_behind(tmp_path, age=DEAD_SECONDS + 1)
    assert len(take(tmp_path)) == 1


def test_a_dead_process_of_this_machine_gives_way_at_once_whatever_its_number_is_now(tmp_path: Path) -> None:
    left_behind(tmp_path, age=0, kernel=folder_lock._kernel(), pid=os.getpid())
    assert len(take(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b'{"pid": 7', b"\xff", b'{"other": 1}', b"[1]"])
def test_a_lock_that_was_cut_off_while_it_was_written_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert take(tmp_path) == []


def test_a_run_that_is_started_again_need_not_wait_for_the_lock_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "head-29400-run")
    for other in ("", "head-29400-other"):
        left_behind(tmp_path, age=1, run=other)
        with pytest.raises(UserError, match="in use by process 7 on far"):
            take(tmp_path)
    left_behind(tmp_path, age=1, run="head-29400-run")
    (said,) = take(tmp_path)
    assert "was left behind by process 7 on far" in said
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's name for runs without one
    left_behind(tmp_path, age=1, run="none")
    with pytest.raises(UserError, match="in use by process 7 on far"):
        take(tmp_path)


def test_a_run_that_is_started_again_waits_for_its_process_that_is_about_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "head-29400-run")
    with holding(tmp_path) as process:
        timer = threading.Timer(0.5, process.kill)
        timer.start()
        assert len(take(tmp_path)) == 1
        assert process.wait(1) == -signal.SIGKILL
    monkeypatch.setattr(folder_lock, "DEAD_SECONDS", 0.3)
    with holding(tmp_path) as process:
        with pytest.raises(UserError, match=f"in use by process {process.pid}"):
            take(tmp_path)
        process.kill()


def test_where_the_disk_has_no_kernel_locks_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    left_behind(tmp_path, age=1, kernel=folder_lock._kernel())
    with pytest.raises(UserError, match="process 7 on far"):
        take(tmp_path)
    left_behind(tmp_path, age=DEAD_SECONDS + 1, kernel=folder_lock._kernel())
    assert len(take(tmp_path)) == 1


def test_a_holder_renews_it_and_sees_that_it_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "RENEW_SECONDS", 0.01)
    with hold(tmp_path, print, OTHERWISE) as lock:
        os.utime(tmp_path / FILE, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / FILE).stat().st_mtime < time.time() - 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / FILE).stat().st_mtime > time.time() - 60
        lock.check()
        (tmp_path / FILE).unlink()
        lock.check()  # nobody has it
        theirs = left_behind(tmp_path, age=0)
        with pytest.raises(UserError, match="was taken over by process 7 on far.*; it writes no more"):
            lock.check()
    assert json.loads((tmp_path / FILE).read_text()) == theirs, "it is theirs to remove"


def test_of_many_that_want_what_a_dead_process_left_one_gets_it(tmp_path: Path) -> None:
    left_behind(tmp_path, age=DEAD_SECONDS + 1)
    code = (
        "import sys, time; from pathlib import Path; from nanochat.runtime.folder_lock import hold\n"
        "from nanochat.flags import run\n"
        "def main():\n"
        " sys.stdin.readline()\n"
        " with hold(Path(sys.argv[1]), str, ''): print('mine', flush=True); sys.stdin.readline()\n"
        "run(main)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    deadline = time.monotonic() + 20
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    done = [process.communicate("end\n") for process in processes]
    assert sorted(out for out, _ in done) == ["", "", "", "mine\n"]
    assert sum("is in use by process" in err for _, err in done) == 3


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*; set NANOCHAT_BASE_DIR"):
        take(tmp_path / "file" / "run")
    (tmp_path / "run" / FILE).mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*lock\.json: Is a directory"):
        take(tmp_path / "run")


def test_a_disk_that_is_away_is_no_lost_lock(tmp_path: Path) -> None:
    with hold(tmp_path, print, OTHERWISE) as lock:
        (tmp_path / FILE).unlink()
        (tmp_path / FILE).mkdir()  # which cannot be read
        lock.check()
