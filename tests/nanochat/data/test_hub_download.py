"""Downloads from a real server on loopback that fails in the ways real ones do."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.data import http_download
from nanochat.data.http_download import TransferConfig
from nanochat.data.hub_download import HUB, DownloadConfig, download
from nanochat.data.sources import open_source
from nanochat.dataset import main
from tests.helpers.shard_server import ShardServer, parquet_bytes

VAL = "shard_06542.parquet"
FIRST = "shard_00000.parquet"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = {f"shard_{i:05d}.parquet": parquet_bytes([f"document {i} {j} " * 40 for j in range(50)]) for i in (0, 1, 2, 6542)}
    with ShardServer(files) as running:
        yield running


def config(server: ShardServer, **changes: object) -> DownloadConfig:
    settings = {"num_shards": 1, "base_url": server.url, "transfer": TransferConfig(timeout_seconds=2, retry_seconds=0.01), **changes}
    return DownloadConfig(**settings)


def here(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def command(base: Path, server: ShardServer, *flags: str) -> tuple[list[str], dict[str, str]]:
    arguments = [sys.executable, "-m", "nanochat.dataset", "-n", "2", "--retry-seconds", "0.01", *flags]
    return arguments, {**os.environ, "NANOCHAT_BASE_DIR": str(base), "NANOCHAT_DATA_URL": server.url}


def test_command_downloads_shards_and_the_validation_shard(base: Path, server: ShardServer, root: Path) -> None:
    arguments, environment = command(base, server)
    done = subprocess.run(arguments, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout  # plain lines where there is no terminal
    folder = base / "data" / "climbmix"
    assert here(folder) == [FIRST, "shard_00001.parquet", VAL]
    assert all((folder / name).read_bytes() == server.files[name] for name in here(folder))
    asked = len(server.requests)
    again = subprocess.run(arguments, env=environment, cwd=root, capture_output=True, text=True)
    assert again.returncode == 0 and len(server.requests) == asked
    source = open_source("auto")
    assert source.name == "climbmix"
    assert {document.split()[1] for document in source.documents("val")} == {"6542"}
    assert {document.split()[1] for document in source.documents("train")} == {"0", "1"}


def test_bar_on_a_terminal(base: Path, server: ShardServer, root: Path) -> None:
    arguments, environment = command(base, server)
    server.fail(FIRST, "503")
    controller, terminal = os.openpty()
    process = subprocess.Popen(arguments, env={**environment, "TERM": "xterm"}, cwd=root, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
    except OSError:  # the terminal is gone when its last process is
        pass
    os.close(controller)
    assert process.wait() == 0
    assert b"3/3" in shown and b"503" in shown


@pytest.mark.parametrize(
    ("fault", "state_hash"),
    [(fault, state_hash) for fault in ("drop", "503", "html", "ignore_range") for state_hash in (True, False)] + [("short", True)],
)
def test_faults_are_overcome(tmp_path: Path, server: ShardServer, fault: str, state_hash: bool) -> None:
    server.state_hash = state_hash
    server.fail(FIRST, *(["drop", "ignore_range"] if fault == "ignore_range" else [fault, fault]))
    assert download(config(server), tmp_path) == 0
    assert here(tmp_path) == [FIRST, VAL]
    assert (tmp_path / FIRST).read_bytes() == server.files[FIRST]
    if fault == "ignore_range":
        assert len(server.asked(FIRST)) == 2, "a body from its first byte on is written from the first byte on"
    if fault == "drop":
        body = len(server.files[FIRST])
        assert sum(request.sent for request in server.asked(FIRST)) <= body + 2, "bytes that were there came again"
        assert [("range" in request.headers) for request in server.asked(FIRST)] == [False, True, True]


def test_wrong_bytes_are_noticed_by_their_hash(tmp_path: Path, server: ShardServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.fail(FIRST, "flip", "redirect")  # the second time the hash is stated by the redirect only
    assert download(config(server), tmp_path) == 0
    assert capsys.readouterr().out.count("SHA-256") == 2
    assert (tmp_path / FIRST).read_bytes() == server.files[FIRST]


def test_what_was_longer_than_the_file_is_thrown_away(tmp_path: Path, server: ShardServer) -> None:
    (tmp_path / f"{FIRST}.tmp").write_bytes(server.files[FIRST] + b"more")
    (tmp_path / f"{VAL}.tmp").write_bytes(server.files[VAL])  # whole, but killed before it was renamed
    assert download(config(server), tmp_path) == 0
    assert (tmp_path / FIRST).read_bytes() == server.files[FIRST]
    assert (tmp_path / VAL).read_bytes() == server.files[VAL]
    assert server.asked(VAL)[0].sent == 1


def test_killed_and_continued(base: Path, server: ShardServer, root: Path) -> None:
    server.fail(FIRST, "slow")
    arguments, environment = command(base, server)
    temporary = base / "data" / "climbmix" / f"{FIRST}.tmp"
    process = subprocess.Popen(arguments, env=environment, cwd=root, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not (temporary.exists() and temporary.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    size = temporary.stat().st_size
    assert 0 < size < len(server.files[FIRST]) and FIRST not in here(temporary.parent)
    assert subprocess.run(arguments, env=environment, cwd=root, stdout=subprocess.DEVNULL).returncode == 0
    assert server.asked(FIRST)[-1].headers["range"] == f"bytes={size - 1}-"
    assert (base / "data" / "climbmix" / FIRST).read_bytes() == server.files[FIRST]


def test_interrupted_at_the_keyboard(base: Path, server: ShardServer, root: Path) -> None:
    server.fail(FIRST, "slow")
    arguments, environment = command(base, server, "--timeout-seconds", "1")
    process = subprocess.Popen(arguments, env=environment, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 20
    while not (server.asked(FIRST) and server.asked(FIRST)[0].sent) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130 and errors == "interrupted\n"
    assert len(server.asked(FIRST)) == 1 and not (base / "data" / "climbmix" / FIRST).exists()


def test_missing_shard_is_named_and_the_others_come(base: Path, server: ShardServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.fail(FIRST, "404")
    assert main(["-n", "2", "--base-url", server.url]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and FIRST in errors[0] and "404" in errors[0] and "1 of 3" in errors[1]
    assert len(server.asked(FIRST)) == 1, "what is not there is not asked for again"
    assert here(base / "data" / "climbmix") == ["shard_00001.parquet", VAL]


def test_gives_up(tmp_path: Path, server: ShardServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.fail(FIRST, *["503"] * 50)
    assert download(config(server), tmp_path) == 1
    assert f"gave up on {server.url}/{FIRST}" in capsys.readouterr().err
    assert len(server.asked(FIRST)) == http_download.MAX_ATTEMPTS
    assert here(tmp_path) == [VAL]


def test_silence_counts_as_lost(tmp_path: Path, server: ShardServer) -> None:
    server.fail(FIRST, "slow")
    transfer = TransferConfig(timeout_seconds=0.2, retry_seconds=0.01)
    assert download(config(server, transfer=transfer), tmp_path) == 0
    assert (tmp_path / FIRST).read_bytes() == server.files[FIRST]


def test_full_disk(base: Path, server: ShardServer, root: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    arguments, environment = command(base, server)
    done = subprocess.run(arguments, env=environment, cwd=root, capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 1
    assert "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not [name for name in here(base / "data" / "climbmix") if name.endswith(".parquet")]


def test_two_at_once_transfer_each_file_once(tmp_path: Path, server: ShardServer) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(download(config(server, num_shards=3), tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0, 0] and len(server.requests) == 4


def test_token_goes_to_the_hub_alone(tmp_path: Path, server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.fail(FIRST, "redirect")
    assert download(config(server), tmp_path) == 0
    assert not [request for request in server.requests if "hf_secret" in str(request.headers)]

    hub = urllib.request.Request(f"{HUB['climbmix'].url}/{FIRST}")
    http_download._authorize(hub)
    assert hub.get_header("Authorization") == "Bearer hf_secret"
    opener = urllib.request.build_opener(http_download._Redirects)
    opener.linked = {}
    (redirects,) = [handler for handler in opener.handlers if isinstance(handler, http_download._Redirects)]
    for target, kept in (
        ("https://storage.example/x", False),
        ("http://huggingface.co/x", False),
        ("https://huggingface.co.evil.example/x", False),
        ("https://huggingface.co/x", True),
    ):
        followed = redirects.redirect_request(hub, None, 302, "Found", {}, target)
        assert (followed.get_header("Authorization") is not None) == kept, target
        assert ("Authorization" in dict(followed.header_items())) == kept, target


@pytest.mark.parametrize(
    "arguments", [["-n", "0"], ["-n", "6543"], ["-w", "0"], ["--base-url", "ftp://x"], ["--timeout-seconds", "0"], ["--no"]]
)
def test_bad_flags_end_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_folder_that_cannot_be_written(tmp_path: Path, server: ShardServer) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        download(config(server), tmp_path / "file" / "data")
