"""Kills, damaged files and full disks: a reader finds the old checkpoint or the new one, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nanochat.common import ROOT, UserError
from tests.helpers.checkpoints import flip, same, saved, state


def test_everything_is_synced_before_it_is_renamed_and_renamed_before_anything_is_removed(tmp_path: Path, monkeypatch) -> None:
    store = saved(tmp_path, 1, keep=1)
    calls: list[tuple[str, str]] = []

    def watch(name: str, place) -> None:
        real = getattr(os, name)

        def wrapper(*arguments, **options):
            calls.append((name, place(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, wrapper)

    watch("fsync", lambda fd: Path(os.readlink(f"/proc/self/fd/{fd}")).name)
    watch("rename", lambda source, target: Path(target).name)
    store.save(2, state(2), {})
    renamed = calls.index(("rename", "step_0000002"))
    synced = {name for call, name in calls[:renamed] if call == "fsync"}
    assert synced >= {"model.safetensors", "optimizer.safetensors", "meta.json", "manifest.json", ".step_0000002.tmp"}
    assert calls[renamed - 1] == ("fsync", ".step_0000002.tmp")
    assert calls[renamed + 1] == ("fsync", tmp_path.name)
    assert calls.index(("rename", ".step_0000001.tmp")) > renamed + 1


def test_kills_and_damage() -> None:
    """The bench of this name, made short: random kills, a kill at each file operation, damaged files."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.checkpoint_crash", "--kills", "12", "--damages", "150"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | ({"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}),
        timeout=120,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and result["ok"], result
    assert result["kills"] == 12 and result["crash_points"] > 30 and result["damages"] == 150


@pytest.mark.slow
def test_kills_and_damage_at_length() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.checkpoint_crash"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "meta.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "grow", "remove"])
def test_a_damaged_file_is_refused_and_the_previous_checkpoint_taken_loudly(tmp_path: Path, file: str, damage: str) -> None:
    store = saved(tmp_path, 1, 2)
    path = tmp_path / "step_0000002" / file
    whole = path.read_bytes()
    if damage == "flip":
        flip(path, place=len(whole) // 2)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:-1], "empty": b"", "grow": whole + b"\n"}[damage])
    said: list[str] = []
    assert store.load_newest(said.append).step == 1
    assert len(said) == 2 and "step 2" in said[0] and "refused" in said[0] and file in said[0] and "step 1" in said[1]
    with pytest.raises(UserError, match=file) as caught:
        store.load(2)
    assert "\n" not in str(caught.value)
    assert same(store.load(1).tensors, state(1))


@pytest.mark.parametrize(
    "change", [lambda m: m | {"format": "other"}, lambda m: m | {"files": {}}, lambda m: m | {"step": 1}, lambda m: []]
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, change) -> None:
    store = saved(tmp_path, 2)
    path = tmp_path / "step_0000002" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=1, sort_keys=True) + "\n")
    assert "manifest.json" in str(store.verify(2))


def test_a_checkpoint_under_another_step_is_refused(tmp_path: Path) -> None:
    store = saved(tmp_path, 2)
    (tmp_path / "step_0000002").rename(tmp_path / "step_0000003")
    assert store.verify(3) == "manifest.json is of step 2"


def in_python(code: str, *arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process that has `saved` and `state`."""
    head = f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\n{before}\n"
    head += "from nanochat.checkpoint.store import CheckpointStore\nfrom nanochat.flags import run\n"
    head += "from tests.helpers.checkpoints import saved, state\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_a_file_that_may_not_grow_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    done = in_python(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        run(lambda: CheckpointStore(Path(sys.argv[1])).save(2, state(2), {}))
        """,
        tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot save step 2") and "File too large" in done.stderr and done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000001"] and same(store.load(1).tensors, state(1))


def mounted(code: str, folder: Path, *, size: str, read_only: bool) -> subprocess.CompletedProcess[str]:
    """Runs `code` with `folder` as a file system of `size` that holds checkpoint 1; skips if mounting is not allowed."""
    mount = f"mount -t tmpfs -o size={size} none {folder}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    before = f"""
import subprocess, ctypes
assert ctypes.CDLL(None).unshare(0x20000) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run({mount.split()!r}, check=True)
"""
    lock = f'subprocess.run(["mount", "-o", "remount,ro", {str(folder)!r}], check=True)' if read_only else ""
    return in_python(f"store = saved(Path({str(folder)!r}), 1)\n{lock}\n{textwrap.dedent(code)}", before=before)


AFTERWARDS = """
import nanochat.common
try:
    store.save(2, {"model": {"w": __import__("torch").zeros(300_000)}}, {})
except nanochat.common.UserError as error:
    print(error)
print(sorted(p.name for p in store.folder.iterdir()), store.verify(1))
"""


@pytest.mark.parametrize(("read_only", "why"), [(False, "No space left on device"), (True, "Read-only file system")])
def test_a_full_or_read_only_disk_leaves_the_old_checkpoint(tmp_path: Path, read_only: bool, why: str) -> None:
    done = mounted(AFTERWARDS, tmp_path, size="200k", read_only=read_only)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done
    assert lines[0].startswith("cannot save step 2") and why in lines[0] and "earlier checkpoints are intact" in lines[0]
    assert lines[1] == "['step_0000001'] None"
