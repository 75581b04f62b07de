"""Several processes: each writes and reads what it owns, and all end together, with a checkpoint or with an error."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint import store as store_module
from nanochat.checkpoint.processes import Processes, shared_out
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from tests.helpers.checkpoints import flip, same
from tests.helpers.two_processes import in_two_processes

STEP = "step_0000001"


@dataclass
class Group:
    """Threads that meet as processes do."""

    size: int
    before: Callable[[], None] = lambda: None  # called by rank 0 before each meeting
    votes: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)


@dataclass
class Member:
    """One of a group, as `Processes`."""

    rank: int
    group: Group

    @property
    def world_size(self) -> int:
        return self.group.size

    @property
    def hosts(self) -> tuple[str, ...]:
        return ("one",) * self.group.size

    def first(self, value: list[int]) -> list[int]:
        return value

    def all_agree(self, ok: bool) -> bool:
        if self.rank == 0:
            self.group.before()
        self.group.votes[self.rank] = ok
        self.group.barrier.wait()
        agreed = all(self.group.votes.values())
        self.group.barrier.wait()
        return agreed


def save_together(
    store: CheckpointStore, parts: list[dict[str, dict[str, torch.Tensor]]], step: int = 1, before: Callable[[], None] = lambda: None
) -> list[BaseException | None]:
    """One thread per rank; returns what each raised."""
    saved = in_threads(Group(len(parts), before), lambda member: store.save(step, parts[member.rank], {"rank": member.rank}, member))
    return [result if isinstance(result, BaseException) else None for result in saved]


def in_threads(group: Group, action: Callable[[Member], object]) -> list[object]:
    """What `action` returns or raises in the thread of each member."""
    results: list[object] = [None] * group.size

    def work(rank: int) -> None:
        try:
            results[rank] = action(Member(rank, group))
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(group.size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def saved_by_three(folder: Path) -> tuple[CheckpointStore, dict[str, dict[str, torch.Tensor]]]:
    whole = {"model": {"w": torch.randn(3)}, "optimizer": {f"m{i}": torch.full((2,), float(i)) for i in range(3)}}
    parts = [{"model": whole["model"] if rank == 0 else {}, "optimizer": {f"m{rank}": whole["optimizer"][f"m{rank}"]}} for rank in range(3)]
    store = CheckpointStore(folder)
    assert save_together(store, parts) == [None] * 3
    return store, whole


def test_each_rank_writes_what_it_owns_and_the_union_is_read(tmp_path: Path) -> None:
    store, whole = saved_by_three(tmp_path)
    names = {p.name for p in (tmp_path / STEP).iterdir()}
    assert names == {"meta.json", "manifest.json", "model.rank00.safetensors", *(f"optimizer.rank0{r}.safetensors" for r in range(3))}
    assert same(store.load(1).tensors, whole) and store.load(1).meta == {"rank": 0}


def hashed_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed from now on."""
    names: list[str] = []
    real = store_module.check_digest
    monkeypatch.setattr(store_module, "check_digest", lambda file, expected: (names.append(file.path.name), real(file, expected))[1])
    return names


def test_a_rank_reads_its_own_part_and_that_of_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, whole = saved_by_three(tmp_path)
    hashed = hashed_files(monkeypatch)
    for rank in range(3):
        hashed.clear()
        names = {f"m{rank}": whole["optimizer"][f"m{rank}"], "m0": whole["optimizer"]["m0"]}
        loaded = store.load(1, processes=Processes(rank, 3))
        assert same(loaded.tensors, {"model": whole["model"], "optimizer": names}) and loaded.meta == {"rank": 0}
        owners = {f"optimizer.rank0{owner}.safetensors" for owner in (0, rank)}
        assert sorted(hashed) == sorted(["meta.json", "model.rank00.safetensors", *owners])
    for world in (1, 2, 4):  # another number of processes shares the state out anew
        assert same(store.load(1, processes=Processes(world - 1, world)).tensors, whole)


@pytest.mark.parametrize("world", [3, 2])
def test_the_processes_of_a_machine_hash_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    store, _ = saved_by_three(tmp_path)
    files = {path.name for path in (tmp_path / STEP).iterdir()} - {"manifest.json"}
    by_rank: list[list[str]] = []
    for rank in range(world):
        by_rank.append(hashed_files(monkeypatch))
        store.load(1, processes=Processes(rank, world, ("one",) * world))
        monkeypatch.undo()
    assert sorted(name for names in by_rank for name in names) == sorted(files)
    assert all(by_rank), "one does it all"
    alone = hashed_files(monkeypatch)
    store.load(1, processes=Processes(0, 2, ("one", "another")))
    assert set(alone) == files, "another machine has verified for this one"


def test_work_is_shared_out_by_size() -> None:
    assert shared_out({"a": 9, "b": 3, "c": 4, "d": 2}, [2, 5]) == {"a": 2, "c": 5, "b": 5, "d": 5}


def test_damage_is_found_by_those_that_read_the_file_and_absence_by_all(tmp_path: Path) -> None:
    store, _ = saved_by_three(tmp_path)
    file = tmp_path / STEP / "optimizer.rank02.safetensors"
    flip(file)
    for rank in (0, 1):
        store.load(1, processes=Processes(rank, 3))
    for rank, world in ((2, 3), (0, 1), (0, 2)):
        with pytest.raises(UserError, match=r"optimizer.rank02.safetensors was changed"):
            store.load(1, processes=Processes(rank, world))
    file.write_bytes(file.read_bytes()[:-1])
    for groups in (None, ("model",), ()):
        with pytest.raises(UserError, match=r"optimizer.rank02.safetensors has \d+ bytes instead of"):
            store.load(1, groups, Processes(1, 3))
    file.unlink()
    with pytest.raises(UserError, match="optimizer.rank02.safetensors: No such file"):
        store.load(1, ("model",))


def test_nobody_trusts_a_file_that_another_process_has_yet_to_verify(tmp_path: Path) -> None:
    store, _ = saved_by_three(tmp_path)
    shutil.copytree(tmp_path / STEP, tmp_path / "step_0000002")
    manifest = tmp_path / "step_0000002" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"step": 1', b'"step": 2'))
    assert store.verify(2) is None
    for name in ("model.rank00.safetensors", "meta.json"):  # read by all, hashed by one
        file = manifest.with_name(name)
        whole = file.read_bytes()
        file.write_bytes(b"\xff" * 8 + whole[8:])
        found = in_threads(Group(3), lambda member: store.load_newest(lambda text: None, processes=member))
        assert [getattr(each, "step", each) for each in found] == [1, 1, 1]
        file.write_bytes(whole)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_files_of_other_machines_are_not_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = saved_by_three(tmp_path)
    opened, real = [], store_module.check_digest
    monkeypatch.setattr(store_module, "check_digest", lambda file, expected: (opened.append(fds()), real(file, expected)))
    before = fds()
    store.load(1, processes=Processes(0, 3, ("one", "two", "three")))
    assert max(opened) - before < 5


def fds() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_the_newest_checkpoint_is_that_of_the_first_process(tmp_path: Path) -> None:
    class Second(Processes):
        def first(self, value: list[int]) -> list[int]:
            return [step for step in value if step < 8]  # the newest was not there yet when the first looked

    store, said = CheckpointStore(tmp_path, keep=-1), []
    for step in (4, 8):
        store.save(step, {"model": {"w": torch.ones(2)}}, {})
    assert store.load_newest(said.append, processes=Second(1, 2)).step == 4
    assert said == [f"checkpoint of step 4 in {tmp_path} is valid"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_write_fails_the_save_everywhere(tmp_path: Path, rank: int) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {}, {})
    temporary = tmp_path / ".step_0000002.tmp"

    def block() -> None:
        if temporary.is_dir():
            (temporary / f"model.rank0{rank}.safetensors").mkdir(exist_ok=True)

    parts = [{"model": {"w": torch.ones(2)}}, {"model": {"v": torch.ones(2)}}]
    raised = save_together(store, parts, step=2, before=block)
    assert all(isinstance(error, UserError) for error in raised)
    assert "File exists" in str(raised[rank])
    assert str(raised[1 - rank]) == f"cannot save step 2 in {tmp_path}: another process failed"
    assert [p.name for p in tmp_path.iterdir()] == [STEP]


def test_a_tensor_with_two_owners_is_refused(tmp_path: Path) -> None:
    first, second = save_together(CheckpointStore(tmp_path), [{"model": {"w": torch.ones(2)}}] * 2)
    assert isinstance(first, ValueError) and "model/w is saved by rank 1" in str(first)
    assert isinstance(second, UserError)
    assert list(tmp_path.iterdir()) == []


# Prints what each rank of a real group meets: a save in which one phase raises in one rank, then loads of a damaged checkpoint.
PROGRAM = """
import sys, time
from pathlib import Path
import torch
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.runtime.device import RuntimeFlags, start

def said(action):
    begin = time.monotonic()
    try:
        result = action()
        print(result.step if result is not None else None)
    except (UserError, RuntimeError, MemoryError) as error:
        print(type(error).__name__)
    assert time.monotonic() - begin < 10

def fails(*_):
    raise MemoryError

folder, phase, failing = Path({folder!r}), {phase!r}, {rank}
runtime = start(RuntimeFlags(device_type="cpu"))
store = CheckpointStore(folder, keep=-1)
tensors = {{"model": {{}} if runtime.rank else {{"w": torch.ones(3)}}, "optimizer": {{f"m{{runtime.rank}}": torch.ones(3)}}}}
for step in (1, 2):
    store.save(step, tensors, {{}}, runtime)
broken = dict(tensors)
if runtime.rank == failing:
    if phase == "write":
        broken["optimizer"] = {{"m": torch.ones(2, device="meta")}}  # whose copy to the CPU is a RuntimeError
    else:
        setattr(CheckpointStore, phase, fails)
said(lambda: store.save(3, broken, {{}}, runtime))
runtime.barrier()
print(",".join(sorted(p.name for p in folder.iterdir())))
runtime.barrier()
if runtime.rank == 0:
    path = folder / "step_0000002" / "optimizer.rank01.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
runtime.barrier()
said(lambda: store.load(2, processes=runtime))
said(lambda: store.load_newest(lambda line: None, processes=runtime))
said(lambda: store.load_newest(lambda line: None, ("model",), runtime))
runtime.close()
"""


@pytest.mark.parametrize(
    ("phase", "rank", "errors"),
    [
        ("write", 0, ("NotImplementedError", "OtherProcessError")),
        ("write", 1, ("OtherProcessError", "NotImplementedError")),
        ("_prepare", 0, ("MemoryError", "OtherProcessError")),
        ("_commit", 0, ("MemoryError", "OtherProcessError")),
    ],
)
def test_what_one_process_meets_ends_all(root: Path, tmp_path: Path, phase: str, rank: int, errors: tuple[str, str]) -> None:
    """Any exception in any phase; and a part that only rank 1 reads and finds damaged is refused by both."""
    outputs = in_two_processes(root, PROGRAM.format(folder=str(tmp_path), phase=phase, rank=rank))
    left = "step_0000001,step_0000002"
    assert outputs == [[error, left, "UserError", "1", "2"] for error in errors]


# Rank 0 agrees in its thread before it adds up, rank 1 after it: over one group's connections these would be taken for each other.
BESIDE_TRAINING = """
import threading, time
import torch
import torch.distributed as dist
from nanochat.runtime.device import RuntimeFlags, start

runtime = start(RuntimeFlags(device_type="cpu", collective_timeout=20))
behind, agreed, total = runtime.in_background(), [], torch.ones(3)
thread = threading.Thread(target=lambda: agreed.append((behind.all_agree(True), behind.all_agree(runtime.rank == 0))))
if runtime.rank == 0:
    thread.start()
    time.sleep(0.5)
dist.all_reduce(total)
if runtime.rank == 1:
    thread.start()
thread.join()
print(*agreed[0], total.tolist() == [2.0] * 3)
runtime.close()
"""


def test_processes_agree_in_the_background_while_they_train(root: Path) -> None:
    assert in_two_processes(root, BESIDE_TRAINING) == [["True", "False", "True"]] * 2
