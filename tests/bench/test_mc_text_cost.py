"""The cost stage of mc_text with a small memory: every setting and depth has a ratio of two times."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.mc_text_cost import _times, _untrained, cost_stage
from bench.mc_text_rolling import settings
from bench.mc_text_setting import Bench, McText
from mc.eval.rolling import Rolling
from nanochat.common import UserError
from nanochat.data.tokenizer import load_tokenizer
from nanochat.infer.fast_decode import DecodeStep
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.memory_kv_cache import MemoryKVCache
from tests.helpers.layered_memory import T, layered_memory, some_tokens
from tests.helpers.text_bench import text_bench


def test_both_read_the_same_tokens_with_as_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.mc_text_cost.CHUNKS", 2)
    memory = layered_memory()
    before = memory.plan
    read: dict[type, list[int]] = {MemoryKVCache: [], KVCache: []}
    entries: dict[type, list[int]] = {MemoryKVCache: [], KVCache: []}
    clock = iter(range(10**6))
    monkeypatch.setattr("bench.mc_text_cost.time.perf_counter", lambda: next(clock))
    for kind, tokens in read.items():

        def spied(self, given, counts=None, kind=kind, tokens=tokens, append=kind.append):
            if type(self) is kind and given.shape[1] == 1:
                tokens.append(int(given))
                entries[type(self)].append(self.lengths[0] + 1)
            return append(self, given, counts)

        monkeypatch.setattr(kind, "append", spied)
    found = _times(memory, DecodeStep(memory.model), Rolling(64, 16, 16), some_tokens(800))
    assert found["ratio"] == 1.0 and found["token_ms"] == found["window_ms"] == 1000.0, "the clock ticks once a call"
    assert found["history"] == 800 - 3 * 96 and memory.plan is before
    assert read[MemoryKVCache] == some_tokens(800)[-3 * 96 :].tolist()
    assert len(read[KVCache]) == 3 * 96 + 18, "the window begins anew every 16 tokens, with one that is not timed"
    assert [token for number, token in enumerate(read[KVCache]) if number % 17] == read[MemoryKVCache]
    assert max(entries[KVCache]) == max(entries[MemoryKVCache]) == 64
    assert min(entries[KVCache]) >= 64 - 16 and min(entries[MemoryKVCache]) > 64 - 16 - 8, "a block of 8 that does not fit may be left out"


def test_too_little_text_is_one_line() -> None:
    memory = layered_memory()
    with pytest.raises(UserError, match=r"the held-out rows have 1,000 tokens; the cost stage needs 1,120: give more of them"):
        _times(memory, DecodeStep(memory.model), Rolling(64, 16, 16), some_tokens(1000))


def test_an_untrained_memory_has_the_shape_of_the_given_one() -> None:
    memory = layered_memory()
    deep = _untrained(memory, memory.model.config.depth + 1)
    assert deep.model.config.depth == memory.model.config.depth + 1 and deep.config is memory.config
    assert deep.model.config.head_dim == memory.model.config.head_dim and not any(part.requires_grad for part in deep.parameters())


def test_the_stage_measures_each_setting(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("bench.mc_text_cost.CHUNKS", 2)
    monkeypatch.setattr("bench.mc_text_cost.CHUNK", 8)
    monkeypatch.setattr("bench.mc_text_cost.ROWS_BEFORE", 1)
    monkeypatch.setattr("bench.mc_text_rolling.INTERVALS", (8,))
    monkeypatch.setattr("bench.mc_text_rolling.NARROW_INTERVALS", (12, 8))
    bench = text_bench(tmp_path, "cost", 4 * T, depth=2, cost_depths="3")
    memory, tokenizer = layered_memory(vocab_size=400, max_seq_len=4 * T), load_tokenizer()
    assert cost_stage(Bench(bench.config, bench.home, 0.0), memory, tokenizer, "x") is None
    found = cost_stage(bench, memory, tokenizer, "x")
    at = [(table["depth"], table["width"], table["interval"]) for table in found["cost"]]
    assert at == [(depth, setting.width, setting.interval) for depth in (2, 3) for setting in settings(bench.config)]
    assert all(math.isfinite(value) and value > 0 for table in found["cost"] for value in table.values())
    assert found["token_time_ratio_12"] == found["cost"][1]["ratio"] and "token_time_ratio_8_error" in found
    assert json.dumps(found, allow_nan=False) and "a refocus every 12: a token takes" in capsys.readouterr().out


def test_settings_leave_room_for_a_raw_block() -> None:
    found = settings(McText())
    assert [(one.width, one.recent, one.interval) for one in found] == [
        *((512, 128, 32), (512, 128, 8)),
        *((256, 64, 48), (256, 64, 32), (256, 64, 8)),
    ]
    assert [one.interval for one in settings(McText(max_seq_len=512, recent=64, horizons="32"))] == [32, 8, 32, 8]
