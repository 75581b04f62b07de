"""The rolling stage of mc_text with a small memory: every condition is measured once, and what was measured stays."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.mc_text_rolling import CONTROLS, INTERVALS, Measured, _table, rolling_stage
from bench.mc_text_setting import Bench, McText
from mc.eval.rolling import Rolling, plain_losses
from mc.memory_model import MemoryModel
from nanochat.common import read_json
from nanochat.data.tokenizer import load_tokenizer
from tests.helpers.layered_memory import VOCAB, T, layered_memory
from tests.helpers.text_bench import text_bench

SETTING = Rolling(48, 16, 8)


def measured(folder: Path, seconds: float = 1e9, rows: int = 3, memory: MemoryModel | None = None) -> Measured:
    config = McText(max_seq_len=T, total_batch_size=8 * T, recent=16, horizons="16", folder=str(folder), stage="corpus", roots=str(folder))
    tokens = torch.randint(VOCAB, (rows, T + 1), generator=torch.Generator().manual_seed(0))
    bench = Bench(config, folder, time.monotonic() + seconds)
    return Measured(bench, memory or layered_memory(), "x", tokens, tokens)


def test_losses_are_kept_and_are_those_of_the_second_half(tmp_path: Path) -> None:
    here = measured(tmp_path)
    full, window = here.plain(), here.plain(24)
    expected, _ = plain_losses(here.memory.model, here.rows[:, :-1], here.rows[:, 1:])
    torch.testing.assert_close(full, expected[:, T // 2 :].mean(1))
    assert not torch.allclose(window, full) and torch.equal(here.plain(T), full)
    assert {file.name for file in (tmp_path / "results").iterdir()} == {f"x.rolling.{name}.N3.json" for name in ("full", "W24", "W128")}
    late = measured(tmp_path, seconds=-1.0, memory=layered_memory(seed=5))
    assert torch.equal(late.plain(), full), "what was measured is not measured again"
    assert late.plain(16) is None and not (tmp_path / "results" / "x.rolling.W16.N3.json").exists()


def test_a_condition_has_a_file_of_its_own(tmp_path: Path) -> None:
    here = measured(tmp_path)
    losses = [here.read(setting, choice) for setting, choice in ((SETTING, "lens"), (SETTING, "gists"), (Rolling(48, 16, 4), "lens"))]
    assert all(part.isfinite().all() for part in losses)
    for i, one in enumerate(losses):
        assert not any(torch.equal(one, other) for other in losses[i + 1 :])
    assert torch.equal(here.read(SETTING, "lens"), losses[0])
    assert len(read_json(tmp_path / "results" / "x.rolling.W48.R16.n8.gists.N3.json")) == 3


def test_a_refocus_before_every_token_is_measured_on_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.mc_text_rolling.OWN_ROWS", 2)
    assert measured(tmp_path, rows=4).read(SETTING, "own").shape == (2,)


def test_the_rival_copies_what_came_before(tmp_path: Path) -> None:
    """Rows that repeat themselves are easy for a cache of what followed, whatever the model knows."""
    half = torch.randint(VOCAB, (4, T // 2), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([half, half, half[:, :1]], dim=1)
    here = measured(tmp_path)
    repeating = Measured(here.bench, here.memory, "repeating", rows, rows)
    suffix, window = repeating.suffix(24), repeating.plain(24)
    assert (suffix < 0.5 * window).all()
    setting, whole = Rolling(48, 16, 8), repeating.suffix()
    memory, both = repeating.read(setting, "lens"), repeating.read(setting, "lens", cached=True)
    assert (both < 0.5 * memory).all() and (whole < 0.5 * window).all()
    names = {file.name.split(".", 2)[2] for file in (tmp_path / "results").iterdir()}
    assert names >= {"full.suffix.N4.json", "W24.suffix.N4.json", "W48.R16.n8.lens.N4.json", "W48.R16.n8.lens.suffix.N4.json"}


def finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return value is None or math.isfinite(value)


def test_the_stage_measures_all_conditions(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = text_bench(tmp_path, "memory", 2 * T, eval_rows=4)
    memory, tokenizer = layered_memory(vocab_size=400, max_seq_len=2 * T), load_tokenizer()
    assert rolling_stage(Bench(bench.config, bench.home, 0.0), memory, tokenizer, "x") is None
    found = rolling_stage(bench, memory, tokenizer, "x")
    assert [(table["width"], table["interval"]) for table in found["rolling"]] == [(64, 32), (64, 8), (32, 8)]
    for table in found["rolling"]:
        wanted = {"window", "near", "window+suffix", "full+suffix", "lens+suffix"} | (
            set(CONTROLS) if table["width"] == 64 else {"lens", "random"}
        )
        assert table["conditions"].keys() == wanted and table["rows"] == 4 and finite(table)
    assert [table["own"]["rows"] for table in found["rolling"] if "own" in table] == [4], "once, at the shortest interval"
    names = {*(f"rolling_recovery_{n}" for n in INTERVALS), "rolling_random_8", "gists_only_share", "window_minus_memory_nats"}
    assert found["figures"].keys() == names | {f"{name}_error" for name in names}
    assert json.dumps(found, allow_nan=False) and "rolling: 64 entries" in capsys.readouterr().out
    assert rolling_stage(Bench(bench.config, bench.home, 0.0), memory, tokenizer, "x") == found, "and nothing twice"


def test_a_figure_is_that_of_its_table() -> None:
    """Recovery is the share of what the full context gains over the window."""
    losses: dict[str, Tensor] = {"full": torch.tensor([1.0, 2.0, 3.0]), "window": torch.tensor([2.0, 3.0, 4.0])}
    lens, random = torch.tensor([1.25, 2.25, 3.25]), torch.tensor([1.5, 2.5, 3.5])
    rest = {
        "near": losses["window"] + 1,
        "gists": losses["full"] + 0.5,
        "window+suffix": losses["window"],
        "lens+suffix": losses["window"] - 0.5,
    }
    table = _table(SETTING, losses | rest | {"lens": lens, "random": random}, torch.arange(3))
    assert table["conditions"]["lens"]["recovery"] == pytest.approx(0.75) and table["random_minus_lens"] == pytest.approx(0.25)
    assert table["window_minus_lens"] == pytest.approx(0.75) and table["gists_only_share"] == pytest.approx(0.75)
    assert table["suffix_minus_lens"] == pytest.approx(0.75) and table["suffix_minus_both"] == pytest.approx(0.5)
