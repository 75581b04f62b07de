"""The bench on a corpus of a few kilobytes: it stops, goes on, and ends with what it promises. Its figures mean nothing here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.mc_text import main, survey
from bench.mc_text_setting import rows_within_documents
from nanochat.common import UserError
from nanochat.data.left_out import LeftOut
from nanochat.data.token_cache import TokenCache, TokenShard
from tests.bench.test_long_corpus import write_packages
from tests.helpers.tiny_model import tiny_model

SHAPE = ("--vocab-size=400", "--depth=2", "--aspect-ratio=16", "--head-dim=16", "--max-seq-len=256", "--total-batch-size=1024")
FROZEN = "--memory-flags=--mc-freeze-model --mc-gist-kl-weight=2 --mc-anneal=0 --gistnet-pooling=query"
FIGURES = ("rolling_recovery_8", "rolling_recovery_32", "rolling_random_8", "gists_only_share", "window_minus_memory_nats")
RUN = ("--train-tokens=4096", "--device-batch-size=2", "--eval-rows=8", "--horizons=16,32", "--train-flags=--compile=0 --device-type=cpu")


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*SHAPE, *RUN, *arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_all_stages_and_going_on(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    where = (f"--roots={write_packages(tmp_path / 'root')}", f"--folder={tmp_path / 'bench'}")
    corpus = bench(capsys, "--stage=corpus", *where)["corpus"]
    assert corpus["train"]["tokens"] > 4096 and corpus["val"]["documents"] == 1 and corpus["vocab_size"] == 400

    memory = ("--stage=memory", "--types=context", "--slots=1", "--recent=32", "--memory-tokens=2048", "--label=first", FROZEN)
    with pytest.raises(UserError, match="no finished model d2-a16-t256-4x1024-bestfit to start from; run --stage survey"):
        main([*SHAPE, *RUN, *memory, *where])
    assert not bench(capsys, "--stage=survey", "--minutes=1e-9", *where)["finished"]
    surveyed = bench(capsys, "--stage=survey", "--windows=24,64", *where)
    assert surveyed["finished"] and surveyed["setting"]["steps"] == 4 and surveyed["corpus"] == corpus
    assert [(gain["horizon"], gain["window"]) for gain in surveyed["gains"]] == [(16, 24), (16, 64), (32, 24), (32, 64)]
    assert len(surveyed["nll_by_position"]) == 16 and all(map(math.isfinite, surveyed["nll_by_position"]))

    first = bench(capsys, *memory, *where)
    assert first["finished"]
    (result,) = first["memories"]
    assert (result["gistnet_type"], result["gist_slots"], result["recent"]) == ("context", 1, 32)
    assert [(at["horizon"], abs(at["entries"] - 64) <= 16) for at in result["horizons"]] == [(16, True), (32, True)]
    for at in result["horizons"]:
        assert set(at["layouts"]) == {"window", "random", "recency", "lens", "oracle", "gists"}
        assert all(math.isfinite(layout["delta_nll"]) and layout["delta_nll_error"] is None for layout in at["layouts"].values())
    # Nothing is done again, whichever way it is asked for.
    both = bench(capsys, *memory, "--stage=all", "--windows=24,64", "--minutes=1e-9", *where)
    assert both["finished"] and both["gains"] == surveyed["gains"] and both["memories"] == first["memories"]
    assert "memory_flags" in both["setting"]
    more = bench(capsys, *memory, "--minutes=1e-9", *where)
    assert more["memories"] == first["memories"]  # nothing is trained or measured again
    assert not bench(capsys, *memory, "--slots=1,2", "--minutes=1e-9", *where)["finished"]

    layered = ("--stage=memory", "--recent=32", "--memory-tokens=2048", "--label=second", "--memory-flags=--mc-freeze-model", *where)
    rolled = bench(capsys, *layered)
    assert rolled["finished"] and rolled["static_recovery_128"] is None  # which is not among the horizons
    assert all(math.isfinite(rolled[name]) and f"{name}_error" in rolled for name in FIGURES)
    tables = rolled["memories"][0]["rolling"]
    assert [(table["width"], table["recent"], table["interval"]) for table in tables] == [(64, 16, 32), (64, 16, 8), (32, 8, 8)]
    plain = {"window", "near", "window+suffix", "full+suffix", "lens+suffix"}
    assert set(tables[0]["conditions"]) == plain | {"lens", "attention", "random", "recency", "gists", "blocks", "shuffled", "oracle"}
    assert set(tables[2]["conditions"]) == plain | {"lens", "random"} and tables[1]["own"]["rows"] == 8
    assert bench(capsys, *layered, "--minutes=1e-9") == rolled
    assert not (base / "mc_text").exists()
    with pytest.raises(UserError, match="has 400 tokens, not 500"):
        main([*SHAPE, *RUN, "--stage=corpus", "--vocab-size=500", *where])


def shards(lengths: list[list[int]]) -> TokenCache:
    """Documents of these lengths, shard by shard; a token is its place."""
    made = []
    for documents in lengths:
        offsets = np.cumsum([0, *documents])
        made.append(TokenShard(Path(), "s", np.arange(offsets[-1], dtype=np.uint16), offsets, {}))
    return TokenCache("val", tuple(made), 400, 0, len(made), 0, LeftOut())


def test_rows_lie_within_a_document_and_are_spread_over_all() -> None:
    rows, documents = rows_within_documents(shards([[4, 11, 9], [26, 5]]), 5, 100)
    assert rows[:, 0].tolist() == [4, 9, 15, 0, 5, 10, 15, 20] and documents.tolist() == [1, 1, 2, 3, 3, 3, 3, 3]
    assert (rows.diff() == 1).all() and rows.shape == (8, 6)
    few, documents = rows_within_documents(shards([[4, 11, 9], [26, 5]]), 5, 3)
    assert few[:, 0].tolist() == [4, 5, 20] and documents.tolist() == [1, 3, 3]
    with pytest.raises(UserError, match="no document is as long as a row of 30 tokens"):
        rows_within_documents(shards([[4, 11]]), 30, 3)


def test_a_survey_is_late_or_measures_every_window() -> None:
    model, row = tiny_model(max_seq_len=64), torch.randint(61, (4, 65), generator=torch.Generator().manual_seed(0))
    batches = [(row[:, :-1], row[:, 1:])]
    assert survey(model, batches, [8], [16], lambda: True) is None
    by_position, losses = survey(model, batches, [8, 20], [16, 64], lambda: False)
    with torch.no_grad():
        each = model(row[:, :-1], row[:, 1:], "none")
    assert by_position == pytest.approx(each.mean(0).view(16, 4).mean(1).tolist(), rel=1e-5)
    assert set(losses) == {(8, 16), (8, 64), (20, 16), (20, 64)}
    torch.testing.assert_close(losses[20, 64]["full"], each[:, -21:-1].mean(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(losses[20, 64]["window"], losses[20, 64]["full"]) and not torch.equal(losses[8, 16]["window"], losses[8, 16]["full"])


@pytest.mark.parametrize(
    "wrong, named",
    [
        (["--stage=memory", "--recent=64"], "recent"),
        (["--horizons=16,256"], "horizons"),
        (["--horizons=16,x"], "horizons"),
        (["--types=magic"], "types"),
        (["--slots="], "slots"),
        (["--total-batch-size=1000"], "total_batch_size"),
        (["--minutes=0"], "minutes"),
        (["--stage=corpus", "--roots=/no/such/folder"], "roots"),
    ],
)
def test_a_wrong_flag_is_one_line_and_nothing_is_made(base: Path, wrong: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([*SHAPE, *RUN, *wrong])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and named in error
    assert list(base.iterdir()) == []
