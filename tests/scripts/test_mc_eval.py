"""mc_eval on a real checkpoint of a few thousand parameters: files, figures and last line, and what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mc.eval.session_baselines import SESSION_CONDITIONS
from nanochat.common import UserError
from nanochat.report.compose import generate
from scripts import mc_eval
from scripts.mc_eval import main
from tests.helpers.tiny_model import TEXT, save_base, tiny_model, tiny_tokenizer
from tests.mc.test_loading import memory, save_memory

TINY = ["--device-type", "cpu", "--mc-session-lod", "2", "--examples", "2", "--easy", "1", "--mc-infer-refocus-interval", "32"]


@pytest.fixture
def corpus(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two documents for validation, of which one is long; and a memory that has trained on them."""
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, repeats in {"val_long": 12, "val_short": 2, "train": 2}.items():
        (folder / f"{name}.txt").write_text(name + TEXT * repeats, encoding="utf-8")
    recipe = {"data": {"dataset": str(folder), "packing": "bestfit"}, "trainer": {"seed": 42}}
    save_memory(base, memory(), recipe=recipe)
    return str(folder)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_text_and_recall_are_measured_and_reported(corpus: str, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--suite", "text,passkey,mqar", "--lengths", "2,5", "--horizons", "8,16", "--full-limit", "300"]) == 0
    said = last_line(capsys)
    width = said["entries"]
    assert said["model"] == "tiny-mc, base step 7" and said["entries_behind_a_refocus"] == width - 32
    assert {(row["tokens"], row["horizon"]) for row in said["text"]} == {(n * width, h) for n in (2, 5) for h in (8, 16)}
    assert {row["tokens"]: row["documents"] for row in said["text"]} == {2 * width: 2, 5 * width: 1}
    recall = {(row["suite"], row["tokens"], row["condition"]) for row in said["recall"]}
    assert recall >= {("passkey", 5 * width, c) for c in SESSION_CONDITIONS if c != "full"} and ("mqar", 2 * width, "lens") in recall
    assert list(said["left_out"]) == ["passkey 2 × W", "mqar 5 × W"]
    kept = json.loads(Path(said["predictions_file"]).read_text(encoding="utf-8"))
    assert Path(said["predictions_file"]) == base / "base_runs" / "tiny-mc" / "mc_eval.json"
    assert set(kept["predictions"][0]) == {"suite", "length", "condition", "prompt", "answer", "reply", "score"}
    assert len([p for p in kept["predictions"] if (p["suite"], p["length"]) == ("passkey", 5 * width)]) == 2 * (len(SESSION_CONDITIONS) - 1)
    assert {len(row["losses"]) for row in kept["losses"]} == {16} and kept["flags"]["session"]["mc_session_lod"] == 2
    generate(base / "out" / "report.md")
    report = (base / "out" / "report.md").read_text(encoding="utf-8")
    for name in ("text", "suites"):
        assert f"(long_context_{name}.png)" in report
        assert (base / "out" / f"long_context_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "## Long context" in report and "### recall" in report and "### left out" in report


def test_costs_are_measured_and_targets_judged(
    corpus: str, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mc_eval, "COST_LENGTHS", (1024, 4096))
    assert main([*TINY, "--suite", "cost", "--lengths", "1", "--mc-session-lod", "4"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert [(row["tree"], row["tokens"]) for row in said["cost"]] == [(t, n) for n in (1024, 4096) for t in ("ram", "disk")]
    assert [row["peak_mib"] is None for row in said["cost"]] == [True, True, False, False]
    assert all(50 < row["peak_mib"] < 5000 for row in said["cost"][2:])
    figures = [target["figure"].split(",")[0] for target in said["targets"]]
    assert figures.count("refocus by the time of the tokens it serves") == 2 and "bytes on disk by those of tokens and gists" in figures
    for target in said["targets"]:
        assert f"{'met' if target['met'] else 'missed'} " in next(line for line in out.splitlines() if target["figure"] in line)
    assert not list(base.glob("mc-eval-*"))
    generate(base / "report.md")
    assert (base / "long_context_cost.png").exists()


def test_documents_of_the_user_are_measured(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT * 9, encoding="utf-8")
    (folder / "b.md").write_text(TEXT, encoding="utf-8")
    assert (
        main([*TINY, "--suite", "text", "--lengths", "2", "--horizons", "8", "--documents", str(folder), "--conditions", "window,focus"])
        == 0
    )
    assert [(row["condition"], row["documents"]) for row in last_line(capsys)["text"]] == [("window", 1), ("lens", 1)]


def test_documents_are_read_as_in_training(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any file of a corpus, any column."""
    table = tmp_path / "mine.jsonl.gz"
    table.write_bytes(gzip.compress("".join(json.dumps({"meta": {"body": TEXT * n}}) + "\n" for n in (9, 1)).encode()))
    given = ["--suite", "text", "--lengths", "2", "--horizons", "8", "--conditions", "window", "--documents", str(table)]
    with pytest.raises(UserError, match='line 1: no "text", only meta.body; name the column of the text with --text-column'):
        main([*TINY, *given])
    assert main([*TINY, *given, "--text-column", "meta.body"]) == 0, "the window alone makes no chart"
    assert [(row["condition"], row["documents"]) for row in last_line(capsys)["text"]] == [("window", 1)]


def test_nothing_long_enough_is_one_line(corpus: str, base: Path) -> None:
    with pytest.raises(UserError, match=r"^text: no document has the [\d,]+ tokens that 1 of the lengths need.*nothing is left to measure"):
        main([*TINY, "--suite", "text", "--mc-session-lod", "4", "--lengths", "100"])
    assert not (base / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "passkeys"], "invalid suite: 'passkeys' is unknown; expected some of all,text,passkey"),
        (["--suite", "text,"], "invalid suite: ''"),
        (["--lengths", "1,x"], "lengths is '1,x'; it must be whole numbers from 1"),
        (["--lengths", "0"], "lengths is '0'"),
        (["--horizons", "-3"], "horizons is '-3'"),
        (["--examples", "0"], "examples is 0"),
        (["--conditions", "focus,best"], "invalid conditions: 'best' is unknown; expected some of full,window"),
        (["--full-limit", "-1"], "full_limit is -1"),
        (["--mc-session-lod", "0"], "mc_session_lod is 0"),
        (["--device-type", "abacus"], "device_type is 'abacus'"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_loaded(
    base: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--mc-session-lod", "1", "--lengths", "100"],
            r"has room for [\d,]+ tokens of history, not for [\d,]+; give shorter --lengths, more --mc-session-lod",
        ),
        (["--allocator-soft-max-length", "30"], "allocator_soft_max_length is 30; .* take up to"),
        (["-g", "nobody"], "no model nobody in"),
    ],
)
def test_what_has_no_room_is_one_line(corpus: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*TINY, "--suite", "text", *arguments])


def test_a_model_without_a_memory_is_one_line(base: Path) -> None:
    save_base(base, tiny_model(vocab_size=300), tiny_tokenizer())
    with pytest.raises(UserError, match="was trained without a memory; train one with python -m scripts.base_train --mc"):
        main([*TINY, "-i", "base"])


def test_names_are_chosen_by_their_beginnings() -> None:
    assert mc_eval.MCEval(suite="niah_single,cost").parts == ["niah_single_1", "niah_single_2", "niah_single_3", "cost"]
    assert mc_eval.MCEval().parts == list(mc_eval.PARTS)
    assert mc_eval.MCEval(conditions="lens,full").compared == ["full", "lens"]
    assert mc_eval.MCEval(conditions="focus,full").compared == ["full", "lens"], "its name in earlier versions"
