"""Downloads beside the stages of a runner: slow ones, failing ones, and those that are stopped and continued."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.runner_lab import run_script, script
from tests.helpers.shard_server import ShardServer, parquet_bytes

FIRST, SECOND, VAL = "shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = {name: parquet_bytes([f"{name} {i} " * 40 for i in range(50)]) for name in (FIRST, SECOND, VAL)}
    with ShardServer(files) as running:
        monkeypatch.setenv("NANOCHAT_DATA_URL", running.url)
        yield running


def recipe(root: Path, base: Path) -> str:
    """A runner that downloads two shards while it makes a tokenizer, and trains when all are there."""
    download = f"cd {shlex.quote(str(root))} && exec {shlex.quote(sys.executable)} -m nanochat.dataset -n 2 --retry-seconds 0.01"
    return f"""start_download {base}/data/climbmix -- bash -c {shlex.quote(download)}
        stage tokenizer tokenizer -- touch tokenizer; wait_for_download
        stage train model -- cp {base}/data/climbmix/{FIRST} model"""


def test_it_goes_on_beside_the_stages(root: Path, tmp_path: Path, base: Path) -> None:
    text = """start_download . -- bash -c 'echo fetching; until [ -e tokenizer ]; do sleep 0.05; done; touch data'
        stage tokenizer tokenizer -- touch tokenizer; wait_for_download; stage train model -- cp data model"""
    done = run_script(root, tmp_path, text)
    assert done.returncode == 0, done.stdout
    assert (base / "dataset_download.log").read_text() == "fetching\n" and (tmp_path / "model").exists()
    assert json.loads((base / "stages/download.json").read_text())["stage"] == "download"
    assert f"tail -f {base}/dataset_download.log" in done.stdout
    assert "== download: already done, skipped" in run_script(root, tmp_path, text).stdout


def test_what_a_server_gets_wrong_is_overcome_and_logged(root: Path, tmp_path: Path, base: Path, server: ShardServer) -> None:
    server.fail(FIRST, "503", "drop", "flip")
    server.fail(VAL, "html")
    done = run_script(root, tmp_path, recipe(root, base))
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "model").read_bytes() == server.files[FIRST]
    log = (base / "dataset_download.log").read_text()
    assert "503" in log and "SHA-256" in log and f"{FIRST}: verified" in log


def test_a_shard_that_cannot_be_had_stops_the_run_and_is_had_later(root: Path, tmp_path: Path, base: Path, server: ShardServer) -> None:
    server.fail(SECOND, "404")
    done = run_script(root, tmp_path, recipe(root, base))
    assert done.returncode == 1 and not (tmp_path / "model").exists() and (base / "stages/tokenizer.json").exists()
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3 and SECOND in errors[0] and "404" in errors[0] and "1 of 3 shards are missing" in errors[1]
    assert errors[2] == f"error: the download failed with exit code 1; see {base}/dataset_download.log"
    asked = len(server.requests)
    again = run_script(root, tmp_path, recipe(root, base))
    assert again.returncode == 0 and "== tokenizer: already done, skipped" in again.stdout and (tmp_path / "model").exists()
    assert [request.path.rpartition("/")[2] for request in server.requests[asked:]] == [SECOND], "what is here is not asked for again"


def test_a_run_that_is_stopped_stops_its_download_which_is_continued(root: Path, tmp_path: Path, base: Path, server: ShardServer) -> None:
    server.fail(FIRST, "slow")
    part = base / "data/climbmix" / f"{FIRST}.tmp"
    with subprocess.Popen(script(root, recipe(root, base)), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "waiting for the download" not in (line := process.stdout.readline()):
            assert line, "the run ended before it waited"
        until = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(timeout=20) == 143
    assert rest.endswith("stopped; run the same command again to continue\n") and not (base / "stages/lock").exists()
    size = part.stat().st_size
    assert 0 < size < len(server.files[FIRST]) and not (base / "stages/download.json").exists()
    done = run_script(root, tmp_path, recipe(root, base))
    assert done.returncode == 0 and (tmp_path / "model").read_bytes() == server.files[FIRST]
    assert server.asked(FIRST)[-1].headers["range"] == f"bytes={size - 1}-"


def test_a_run_that_fails_stops_its_download(root: Path, tmp_path: Path, base: Path) -> None:
    log = base / "dataset_download.log"
    text = "start_download . -- bash -c 'echo $$; exec sleep 60'; stage bad x -- bash -c 'until [ -s {log} ]; do sleep 0.02; done; exit 4'"
    assert run_script(root, tmp_path, text.format(log=log)).returncode == 4
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)
