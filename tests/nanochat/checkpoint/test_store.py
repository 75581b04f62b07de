import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import ROOT, UserError

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.uint16]


def state(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return {
        "model": {"w": torch.randn(64, 32, generator=g)},
        "optimizer": {"m": torch.randn(64, 32, generator=g), "step": torch.tensor(seed)},
    }


def saved(folder: Path, *steps: int, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, keep)
    for step in steps:
        store.save(step, state(step), {"step": step})
    return store


def same(a: dict[str, dict[str, torch.Tensor]], b: dict[str, dict[str, torch.Tensor]]) -> bool:
    return a.keys() == b.keys() and all(
        a[g].keys() == b[g].keys() and all(a[g][n].dtype == b[g][n].dtype and a[g][n].equal(b[g][n]) for n in a[g]) for g in a
    )


def flip(path: Path, place: int = -1, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def in_python(code: str, *arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process, with `store` and `state` at hand."""
    head = f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\n{before}\n"
    head += "from tests.nanochat.checkpoint.test_store import CheckpointStore, state, saved\nfrom nanochat.flags import run\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


# --- what goes in comes out ---


@settings(max_examples=25, deadline=None)
@given(
    named=st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and not any("\ud800" <= c <= "\udfff" for c in name)),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_every_dtype_and_shape_comes_back_bit_for_bit(named, tmp_path_factory) -> None:
    tensors = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in named.items()}
    store = CheckpointStore(tmp_path_factory.mktemp("store"))
    store.save(7, {"model": tensors, "optimizer": {}}, {})
    assert same(store.load(7).tensors, {"model": tensors, "optimizer": {}})


def test_files_are_plain_safetensors_and_json(tmp_path: Path) -> None:
    meta = {"config": {"depth": 4}, "text": "ü\n", "none": None, "loss": 1 / 3}
    path = CheckpointStore(tmp_path).save(123, state(), meta)
    assert path == tmp_path / "step_0000123"
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "meta.json", "model.safetensors", "optimizer.safetensors"]
    assert load_file(path / "model.safetensors")["w"].equal(state()["model"]["w"])
    assert json.loads((path / "meta.json").read_text("utf-8")) == meta == CheckpointStore(tmp_path).load(123).meta
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000123"]


def test_meta_keeps_numbers_that_are_not_finite(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {}, {"losses": [float("nan"), float("inf"), -float("inf"), 0.1]})
    assert str(store.load(1).meta) == "{'losses': [nan, inf, -inf, 0.1]}"


def test_views_and_tied_tensors_are_saved_as_their_own_values(tmp_path: Path) -> None:
    w = torch.randn(6, 8, requires_grad=True)
    tensors = {"w": w, "tied": w, "transposed": w.t(), "column": w[:, 1], "rows": w[2:4], "expanded": torch.tensor([2.5]).expand(3)}
    store = CheckpointStore(tmp_path)
    store.save(1, {"model": tensors}, {})
    loaded = store.load(1).tensors["model"]
    assert all(loaded[name].equal(tensor.detach()) for name, tensor in tensors.items())
    loaded["w"].zero_()
    assert loaded["tied"].abs().sum() > 0


def test_equal_state_gives_equal_bytes(tmp_path: Path) -> None:
    w = torch.randn(8, 8)
    first = {"model": {"a": w, "b": w.t().contiguous().t(), "c": torch.tensor(1)}}
    second = {"model": {"c": torch.tensor(1), "b": w.clone(), "a": w.clone()}}
    paths = [CheckpointStore(tmp_path / name).save(1, tensors, {"x": 1}) for name, tensors in (("first", first), ("second", second))]
    for file in ("model.safetensors", "manifest.json", "meta.json"):
        assert (paths[0] / file).read_bytes() == (paths[1] / file).read_bytes()


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    store.save(1, state(5), {"second": True})
    assert same(store.load(1).tensors, state(5)) and store.load(1).meta == {"second": True}
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000001"]


def test_a_step_caught_between_its_two_renames_is_still_there(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    (tmp_path / "step_0000002").rename(tmp_path / ".step_0000002.old")
    assert store.steps() == [1, 2] and store.newest_valid(say=lambda text: None) == 2
    assert same(store.load(2).tensors, state(2))
    store.save(2, state(9), {})
    assert same(store.load(2).tensors, state(9)) and not list(tmp_path.glob(".*"))


# --- several processes ---


def save_together(
    store: CheckpointStore,
    parts: list[dict[str, dict[str, torch.Tensor]]],
    step: int = 1,
    before_barrier: Callable[[], None] = lambda: None,
    lag: float = 0.0,
) -> list[BaseException | None]:
    """One thread per rank; returns what each raised. Rank 0 calls `before_barrier` before each barrier, the others lag behind it."""
    barrier = threading.Barrier(len(parts), timeout=20)
    raised: list[BaseException | None] = [None] * len(parts)

    def work(rank: int) -> None:
        def meet() -> None:
            if rank == 0:
                before_barrier()
            barrier.wait()
            time.sleep(lag if rank else 0.0)

        try:
            store.save(step, parts[rank], {"rank": rank}, rank, len(parts), meet)
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            raised[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_each_rank_writes_what_it_owns_and_the_union_is_read(tmp_path: Path) -> None:
    whole = {"model": {"w": torch.randn(3)}, "optimizer": {f"m{i}": torch.full((2,), float(i)) for i in range(3)}}
    parts = [{"model": whole["model"] if rank == 0 else {}, "optimizer": {f"m{rank}": whole["optimizer"][f"m{rank}"]}} for rank in range(3)]
    store = CheckpointStore(tmp_path)
    assert save_together(store, parts) == [None] * 3
    names = {p.name for p in (tmp_path / "step_0000001").iterdir()}
    assert names == {"meta.json", "manifest.json", "model.rank00.safetensors", *(f"optimizer.rank0{r}.safetensors" for r in range(3))}
    assert same(store.load(1).tensors, whole) and store.load(1).meta == {"rank": 0}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_write_fails_the_save_everywhere(tmp_path: Path, rank: int) -> None:
    store = saved(tmp_path, 1)
    begun = threading.Event()

    def block() -> None:
        if not begun.is_set():
            begun.set()
            (tmp_path / ".step_0000002.tmp" / f"model.rank0{rank}.safetensors").mkdir()

    parts = [{"model": {"w": torch.ones(2)}}, {"model": {"v": torch.ones(2)}}]
    raised = save_together(store, parts, step=2, before_barrier=block, lag=0.1)
    assert [type(error) for error in raised] == [UserError, UserError]
    assert "File exists" in str(raised[rank])
    assert ("process 1 could not write its part" if rank == 1 else "another process failed") in str(raised[1 - rank])
    assert [p.name for p in tmp_path.iterdir()] == ["step_0000001"]


# --- keeping and discarding ---


def test_prunes_to_the_newest(tmp_path: Path) -> None:
    assert saved(tmp_path / "two", 1, 2, 3, 4).steps() == [3, 4]
    assert saved(tmp_path / "one", 1, 2, 3, keep=1).steps() == [3]
    assert saved(tmp_path / "all", 1, 2, 3, keep=-1).steps() == [1, 2, 3]


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    flip(tmp_path / "step_0000002" / "model.safetensors")
    store.save(3, state(3), {})
    assert store.steps() == [1, 2, 3]
    store.save(4, state(4), {})
    assert store.steps() == [3, 4]


def test_a_save_leaves_later_steps_alone_and_discard_after_removes_them(tmp_path: Path) -> None:
    store = saved(tmp_path, 10, 20)
    store.save(5, state(5), {})
    assert store.steps() == [5, 10, 20]
    assert store.discard_after(5) == [10, 20]
    assert store.steps() == [5] and [p.name for p in tmp_path.iterdir()] == ["step_0000005"]


def test_temporary_folders_of_dead_runs_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / ".step_0000009.tmp").mkdir()
    (tmp_path / ".step_0000009.tmp" / "model.safetensors").write_bytes(b"half")
    store = saved(tmp_path, 9)
    assert store.verify(9) is None and not list(tmp_path.glob(".step*"))


def test_what_a_step_replaced_never_comes_back(tmp_path: Path) -> None:
    """A crash after the second rename leaves the replaced checkpoint under its other name."""
    store = saved(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "step_0000002", tmp_path / ".step_0000002.old")
    shutil.copytree(tmp_path / "step_0000001", tmp_path / ".step_0000001.old")
    assert store.discard_after(1) == [2] and store.steps() == [1]
    store.save(3, state(3), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000001", "step_0000003"]


def test_an_empty_or_absent_folder_has_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "absent")
    said: list[str] = []
    assert store.steps() == [] and store.newest_valid(said.append) is None and said == []
    with pytest.raises(UserError, match="no checkpoint of step 3; it has: none"):
        store.load(3)


# --- durability ---


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


# --- bad input: one clear line, nothing damaged ---


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
    assert store.newest_valid(said.append) == 1
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
    """Runs `code` where `folder` is a file system of `size` with checkpoint 1 on it; skips where mounting is not allowed."""
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


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"step": -1}, "step -1"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"tensors": {"Model": {}}}, "'Model'"),
        ({"tensors": {"../model": {}}}, "model"),
        ({"tensors": {"model": {"w": [1.0]}}}, "model/w is a list"),
        ({"meta": {"path": Path()}}, "JSON serializable"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path: Path, arguments, why: str) -> None:
    with pytest.raises((ValueError, TypeError), match=why):
        CheckpointStore(tmp_path / "store").save(**{"step": 1, "tensors": state(), "meta": {}} | arguments)
    assert not (tmp_path / "store").exists()


def test_a_tensor_with_two_owners_is_refused(tmp_path: Path) -> None:
    first, second = save_together(CheckpointStore(tmp_path), [{"model": {"w": torch.ones(2)}}] * 2)
    assert isinstance(first, ValueError) and "model/w is saved by rank 1" in str(first)
    assert isinstance(second, UserError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, -2])
def test_keep_must_make_sense(tmp_path: Path, keep: int) -> None:
    with pytest.raises(ValueError, match=f"keep is {keep}"):
        CheckpointStore(tmp_path, keep)


def test_one_group_is_read_without_the_others(tmp_path):
    store = saved(tmp_path, 3)
    flip(tmp_path / "step_0000003" / "optimizer.safetensors")
    checkpoint = store.load(3, groups=("model",))
    assert same(checkpoint.tensors, {"model": state(3)["model"]}) and checkpoint.meta == {"step": 3}
    with pytest.raises(UserError, match="optimizer.safetensors"):
        store.load(3, groups=("optimizer",))
