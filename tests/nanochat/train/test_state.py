"""The state between steps, and which checkpoint a run continues from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.train.state import TrainState, check_identity, open_checkpoint, random_states, restore_random_states, set_aside

CPU = torch.device("cpu")


@given(
    step=st.integers(0, 10**9),
    seconds=st.floats(0, 1e9),
    losses=st.lists(st.floats(-1e30, 1e30), max_size=5),
    bad=st.lists(st.integers(0, 99), max_size=2),
    figure=st.floats(),
)
def test_the_state_survives_json_bit_for_bit(step: int, seconds: float, losses: list[float], bad: list[int], figure: float) -> None:
    state = TrainState(step, seconds, bad_losses=bad, record={"train/loss": figure})
    for loss in losses:
        state.loss.update(loss)
    other = TrainState()
    other.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert repr(other) == repr(state)  # repr: NaN equals itself, −0.0 differs from 0.0
    assert not losses or not math.isnan(other.loss.value)


def test_the_generator_goes_on_where_it_was() -> None:
    torch.manual_seed(3)
    saved = {name: state.clone() for name, state in random_states(CPU, 0).items()}
    expected = torch.rand(5)
    torch.manual_seed(4)
    restore_random_states(saved, CPU, 0)
    assert torch.rand(5).equal(expected)


def test_a_process_that_was_not_there_keeps_its_generator() -> None:
    saved = random_states(CPU, 0)
    assert saved.keys() == {"cpu.rank0"}
    torch.manual_seed(5)
    expected = torch.rand(5)
    torch.manual_seed(5)
    restore_random_states(saved, CPU, 1)
    assert torch.rand(5).equal(expected)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Checkpoints of the steps 1, 2 and 3."""
    store = CheckpointStore(tmp_path / "tiny", keep=-1)
    for step in (1, 2, 3):
        store.save(step, {"model": {"w": torch.tensor(step)}}, {})
    return store


def spoil(store: CheckpointStore, step: int) -> None:
    path = store.folder / f"step_{step:07d}" / "meta.json"
    path.write_bytes(path.read_bytes() + b" ")


def test_auto_takes_the_newest_valid_one_and_says_so(store: CheckpointStore) -> None:
    said: list[str] = []
    assert open_checkpoint(store, "auto", said.append).step == 3
    spoil(store, 3)
    assert open_checkpoint(store, "auto", said.append).step == 2
    assert [line.partition(" in ")[0] for line in said] == [f"checkpoint of step {step}" for step in (3, 3, 2)]
    assert "is valid" in said[0] and "is refused: meta.json" in said[1] and "is valid" in said[2]


def test_a_step_is_taken_or_refused(store: CheckpointStore) -> None:
    assert open_checkpoint(store, "2", print).step == 2
    with pytest.raises(UserError, match="has no checkpoint of step 9; it has: 1, 2, 3"):
        open_checkpoint(store, "9", print)
    spoil(store, 2)
    with pytest.raises(UserError, match="not a valid checkpoint"):
        open_checkpoint(store, "2", print)


def test_without_checkpoints_a_run_starts_anew(store: CheckpointStore, tmp_path: Path) -> None:
    assert open_checkpoint(CheckpointStore(tmp_path / "none"), "auto", print) is None
    assert open_checkpoint(store, "never", print) is None


def test_where_none_is_valid_the_run_is_not_started_anew_in_silence(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        spoil(store, step)
    with pytest.raises(UserError, match="no checkpoint in .* is valid; start again with --resume never"):
        open_checkpoint(store, "auto", lambda line: None)


def test_setting_aside_loses_nothing(store: CheckpointStore) -> None:
    said: list[str] = []
    for number in (1, 2):
        set_aside(store, said.append)
        assert store.steps() == []
        assert said[-1].endswith(f"tiny.old{number}")
        store.save(number, {"model": {"w": torch.tensor(number)}}, {})
    assert CheckpointStore(store.folder.with_name("tiny.old1")).steps() == [1, 2, 3]
    assert CheckpointStore(store.folder.with_name("tiny.old2")).steps() == [1]
    assert len(said) == 2


def test_setting_nothing_aside_says_nothing(tmp_path: Path) -> None:
    set_aside(CheckpointStore(tmp_path / "none"), pytest.fail)


def test_the_first_difference_is_named() -> None:
    check_identity({"depth": 2, "seed": 1}, {"depth": 2, "seed": 1}, {}, "here")
    with pytest.raises(UserError, match="the checkpoint in here has seed 1, this run 2; use another --model-tag, or --resume never"):
        check_identity({"depth": 2, "seed": 1, "rate": 3}, {"depth": 2, "seed": 2, "rate": 4}, {}, "here")


def test_a_key_that_one_side_lacks_has_its_default() -> None:
    plain, begun = {"depth": 2}, {"depth": 2, "init_from": "d12"}
    with pytest.raises(UserError, match="has init_from d12, this run none"):
        check_identity(begun, plain, {"init_from": ""}, "here")
    with pytest.raises(UserError, match="has init_from none, this run d12"):
        check_identity(plain, begun, {"init_from": ""}, "here")
    with pytest.raises(UserError, match="has window none, this run L"):
        check_identity(plain, {**plain, "window": "L"}, {}, "here")
    with pytest.raises(UserError, match="has mc_x 3, this run none"):
        check_identity({**plain, "mc_x": 3}, plain, {}, "here")


def test_a_setting_added_since_the_checkpoint_must_have_its_default() -> None:
    old, defaults = {"depth": 2}, {"mc_lens_decisions": 8}
    check_identity(old, {**old, "mc_lens_decisions": 8}, defaults, "here")
    with pytest.raises(UserError, match="has mc_lens_decisions 8, this run 4"):
        check_identity(old, {**old, "mc_lens_decisions": 4}, defaults, "here")
