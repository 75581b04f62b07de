"""Progress: lines that come now and then, one live bar on a terminal, and text that is never taken for markup."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import nanochat.progress
from nanochat.progress import DownloadProgress, ProgressDisplay


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [100.0]
    monkeypatch.setattr(nanochat.progress.time, "monotonic", lambda: now[0])
    with ProgressDisplay(out) as display:
        display.begin("reading [a]")
        for step in range(26):
            display.show(step, 25, f"{step} of 25")
            now[0] += 1.0
        display.say("between")
    assert out.getvalue().splitlines() == ["reading [a]: 10 of 25", "reading [a]: 20 of 25", "between"]


def test_downloads_are_counted_in_all_threads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nanochat.progress, "EVERY_SECONDS", 1e9)
    with DownloadProgress(8) as progress:

        def download(number: int) -> None:
            for _ in range(1000):
                progress.advance(1000)
            progress.done(f"shard {number}")

        threads = [threading.Thread(target=download, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [f"shard {number}" for number in range(8)]
    assert ": verified; 8/8 shards, 8.0 MB at " in lines[-1]


def test_a_terminal_gets_one_bar_for_all_stages(root: Path) -> None:
    code = """
from nanochat.progress import ProgressDisplay
with ProgressDisplay(clock="remaining") as display:
    display.begin("checking [a]")
    display.show(5, 5, "5 [b]")
    display.say("said [c]")
    display.begin("reading [a]")
    display.show(1, 4, "1 of 4 tokens")
"""
    leader, follower = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, cwd=root, env=env)
    os.close(follower)
    out = b""
    try:
        while piece := os.read(leader, 65536):
            out += piece
    except OSError:  # the terminal is gone with its last process
        pass
    os.close(leader)
    assert child.wait(timeout=30) == 0
    text = out.decode()
    last = text[: text.rindex("\r\n")].rpartition("\r")[2]
    assert "said [c]" in text and "reading [a]" in last and "25%" in last and "1 of 4 tokens" in last and "checking" not in last
