"""The store in one process: what goes in comes out, which steps are kept, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from nanochat.checkpoint import store as store_module
from nanochat.checkpoint.open_file import OpenFile
from nanochat.checkpoint.processes import Processes
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from tests.helpers.checkpoints import flip, same, saved, state

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.uint16]


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
    assert store.steps() == [1, 2] and store.load_newest(say=lambda text: None).step == 2
    assert same(store.load(2).tensors, state(2))
    store.save(2, state(9), {})
    assert same(store.load(2).tensors, state(9)) and not list(tmp_path.glob(".*"))


def test_one_group_is_read_without_the_others(tmp_path):
    store = saved(tmp_path, 3)
    flip(tmp_path / "step_0000003" / "optimizer.safetensors")
    checkpoint = store.load(3, groups=("model",))
    assert same(checkpoint.tensors, {"model": state(3)["model"]}) and checkpoint.meta == {"step": 3}
    with pytest.raises(UserError, match="optimizer.safetensors"):
        store.load(3, groups=("optimizer",))


def test_prunes_to_the_newest(tmp_path: Path) -> None:
    assert saved(tmp_path / "two", 1, 2, 3, 4).steps() == [3, 4]
    assert saved(tmp_path / "one", 1, 2, 3, keep=1).steps() == [3]
    assert saved(tmp_path / "all", 1, 2, 3, keep=-1).steps() == [1, 2, 3]


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    store, file = saved(tmp_path, 1, 2), tmp_path / "step_0000002" / "model.safetensors"
    flip(file)
    os.utime(file)  # later than the save by more than the clock of the file system may show
    store.save(3, state(3), {})
    assert store.steps() == [1, 2, 3]
    store.save(4, state(4), {})
    assert store.steps() == [3, 4]


def test_only_what_this_process_has_not_seen_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, hashed = saved(tmp_path, 1, 2), []
    real = store_module.check_digest
    monkeypatch.setattr(store_module, "check_digest", lambda file, expected: (hashed.append(file.path), real(file, expected))[1])
    store.save(3, state(3), {})
    assert hashed == []
    touched = tmp_path / "step_0000003" / "optimizer.safetensors"
    os.utime(touched, (1, 1))
    store.save(4, state(4), {})
    assert hashed == [touched] and store.steps() == [3, 4]
    later = CheckpointStore(tmp_path)
    later.load(4)
    assert len(hashed) == 4
    later.save(5, state(5), {})
    assert len(hashed) == 4, "what was loaded is verified"


def test_a_checkpoint_that_is_removed_while_it_is_loaded_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = saved(tmp_path, 1), store_module.check_digest

    def removed_meanwhile(file: OpenFile, expected: dict[str, object]) -> None:
        real(file, expected)
        if file.path.parent.exists():
            store._remove(1)

    monkeypatch.setattr(store_module, "check_digest", removed_meanwhile)
    checkpoint = CheckpointStore(tmp_path).load(1)
    assert store.steps() == [] and same(checkpoint.tensors, state(1)) and checkpoint.meta == {"step": 1}


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
    assert store.steps() == [] and store.load_newest(said.append) is None and said == []
    with pytest.raises(UserError, match="no checkpoint of step 3; it has: none"):
        store.load(3)


@pytest.mark.parametrize("keep", [0, -2])
def test_keep_must_make_sense(tmp_path: Path, keep: int) -> None:
    with pytest.raises(ValueError, match=f"invalid keep {keep}"):
        CheckpointStore(tmp_path, keep)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"step": -1}, "step -1"),
        ({"processes": Processes(rank=2, world_size=2)}, "rank 2 of 2"),
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


def test_a_place_for_checkpoints_that_is_no_folder_is_found_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place in ("file", "link", "file/new"):
        with pytest.raises(UserError, match=f"cannot save in .*/{place}: .* is not a folder that can be written; mend it or set"):
            CheckpointStore(tmp_path / place).check_room({}, print)


def test_room_is_looked_for_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, said = {"model": {"w": torch.zeros(1000)}, "optimizer": {"m": torch.zeros(500), "t": torch.zeros(())}}, []
    size = 6004
    store = CheckpointStore(tmp_path / "runs" / "new", keep=2)
    free = size - 1

    def disk_usage(place: Path) -> object:
        assert place == next(path for path in (store.folder, tmp_path) if path.exists())
        return type("Usage", (), {"free": free})

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(UserError, match=r"has 0.01 MB free, but a checkpoint takes 0.01 MB; make room there or set NANOCHAT_BASE_DIR"):
        store.check_room(tensors, said.append)
    free = 3 * size - 1  # two are kept, and a third is written before the oldest goes
    store.check_room(tensors, said.append)
    assert len(said) == 1 and said.pop().endswith("but the checkpoints of this run will take 0.02 MB; make room in time")
    free = 3 * size
    store.check_room(tensors, said.append)
    monkeypatch.undo()
    for step in (1, 2):
        store.save(step, tensors, {})
    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    free = size
    store.check_room(tensors, said.append)
    assert said == []
