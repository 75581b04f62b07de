"""base_train as its users meet it: what it leaves behind, and what it says to bad input."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from bench.tiny_run import SHAPE, Home
from bench.warm_start import WarmStart
from nanochat.common import ROOT


def assert_one_line(stderr: str, *parts: str) -> None:
    """The whole of stderr is one line that begins with `error: ` and holds all `parts`."""
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    for part in parts:
        assert part in stderr


# What is wrong, and what the line must hold.
BAD_FLAGS = {
    "unknown": (["--num-iteration=3"], ["--num-iteration=3", "did you mean --num-iterations?"]),
    "unknown with underscores": (["--detph", "4"], ["--detph", "did you mean --depth?"]),
    "argument without a flag": (["3"], ["unknown flag or argument 3"]),
    "not a number": (["--depth=two"], ["--depth", "invalid value 'two': expected an integer"]),
    "not a choice": (["--warmdown-shape=steep"], ["--warmdown-shape"]),
    "two horizons": (["--num-iterations=3", "--target-flops=1e9"], ["num_iterations", "target_flops"]),
    "batch by law and by hand": (["--batch-mult=2"], ["total_batch_size", "batch_mult"]),
    "batch that does not divide": (["--total-batch-size=200"], ["total_batch_size 200", "device_batch_size", "max_seq_len"]),
    "no layers": (["--depth=0"], ["invalid depth 0", "at least 1"]),
    "odd head": (["--head-dim=15"], ["invalid head_dim 15"]),
    "no rows": (["--device-batch-size=0"], ["device_batch_size is 0"]),
    "negative rate": (["--matrix-lr=-1"], ["matrix_lr is -1"]),
    "infinite rate": (["--lr-mult=inf"], ["lr_mult is inf"]),
    "NaN": (["--weight-decay=nan"], ["invalid value 'nan': expected a number"]),
    "share above one": (["--warmdown-ratio=1.5"], ["warmdown_ratio is 1.5"]),
    "period of zero": (["--eval-every=0"], ["eval_every is 0"]),
    "negative period": (["--save-every=-2"], ["save_every is -2"]),
    "no checkpoints kept": (["--keep-checkpoints=0"], ["keep_checkpoints is 0"]),
    "nothing to evaluate on": (["--eval-tokens=0"], ["eval_tokens is 0"]),
    "less than a row to evaluate on": (["--eval-every=1", "--eval-tokens=31"], ["eval_tokens is 31", "max_seq_len 32"]),
    "resume from what": (["--resume=yesterday"], ["resume is 'yesterday'"]),
    "pattern of other letters": (["--window-pattern=SXL"], ["invalid window_pattern 'SXL'"]),
    "unknown device": (["--device-type=tpu"], ["device_type is 'tpu'"]),
    "unknown attention": (["--attention=flash9"], ["attention is 'flash9'"]),
    "empty data set": (["--dataset="], ["invalid dataset ''"]),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_is_refused_before_anything_is_loaded(corpus: Path, warm: WarmStart, tmp_path: Path, case: str) -> None:
    argv, parts = BAD_FLAGS[case]
    process = Home(tmp_path / "base", corpus, warm).train(*argv)
    assert process.code == 2
    assert_one_line(process.stderr, *parts)
    assert process.stdout == "" and not (tmp_path / "base").exists()


def test_the_flags_of_the_contract_are_there(warm: WarmStart) -> None:
    process = warm.start("scripts.base_train", ["--help"], {})
    assert process.wait() == 0
    contract = """run model-tag device-type depth aspect-ratio head-dim max-seq-len window-pattern attention num-iterations target-flops
        target-param-data-ratio device-batch-size total-batch-size embedding-lr unembedding-lr matrix-lr scalar-lr weight-decay lr-mult
        wd-mult batch-mult warmup-steps warmdown-ratio warmdown-shape final-lr-frac grad-clip seed eval-every eval-tokens
        core-metric-every core-metric-max-per-task sample-every save-every log-every keep-checkpoints resume compile chunked-ce
        fused-rmsnorm
        dataset text-column packing"""
    missing = [name for name in contract.split() if f"  --{name} " not in process.stdout]
    assert not missing


def test_a_missing_tokenizer(home: Home) -> None:
    (home.base / "tokenizer" / "bpe.json").unlink()
    process = home.train("--num-iterations=3")
    assert process.code == 1
    assert_one_line(process.stderr, f"no tokenizer in {home.base / 'tokenizer'}", "scripts.tok_train")


def test_missing_data(home: Home, tmp_path: Path) -> None:
    process = home.train("--num-iterations=3", f"--dataset={tmp_path / 'nowhere'}")
    assert process.code == 1
    assert_one_line(process.stderr, f"--dataset {tmp_path / 'nowhere'}", "no file or folder matches")


def test_empty_data(home: Home, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "empty.txt").touch()
    process = home.train("--num-iterations=3", f"--dataset={tmp_path / 'text'}")
    assert process.code == 1
    assert_one_line(process.stderr, f"--dataset {tmp_path / 'text'}", "no text")


def test_a_corpus_of_other_people(home: Home, tmp_path: Path) -> None:
    """Packed, with another column, splits by name, bytes that are not UTF-8, also in names: read, counted and recorded."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    lines = [json.dumps({"meta": {"body": f"{i} words in a row. " * 40}}).encode() for i in range(40)]
    for name, packed in (("a_train.jsonl.zst", lines), ("a_validation.jsonl.zst", lines[:10]), ("a_test.jsonl.zst", lines)):
        (folder / name).write_bytes(zstandard.compress(b"\n".join([*packed, b'{"meta": {"body": "B\xe4r"}}', b'{"meta": null}'])))
    flags = [f"--dataset={folder}", "--text-column=meta.body", "--save-every=-1"]
    first = home.train("--num-iterations=2", *flags)
    assert first.code == 0, first.stderr
    lost = "1 file left out: a_test.jsonl.zst (test split); 4 documents left out: 2 in a_train.jsonl.zst looks like latin-1, "
    lost += "a_validation.jsonl.zst looks like latin-1 (not UTF-8); 2 in a_train.jsonl.zst, a_validation.jsonl.zst (empty)"
    shown = f"{tmp_path}/caf\\xe9"
    assert f"{shown}/train: 1 file, 40 documents, " in first.stdout and f"{shown}/val: 1 file, 10 documents, " in first.stdout
    assert lost in first.stdout
    data = json.loads((home.base / "report" / "data.json").read_text())["values"]
    assert (data["dataset"], data["text_column"]) == (shown, "meta.body")
    assert [data["splits"][split]["documents"] for split in ("train", "val")] == [40, 10]
    assert [entry["count"] for entry in data["left_out"]] == [1, 2, 2]
    again = home.train("--num-iterations=2", "--resume=never", *flags)
    assert again.code == 0 and lost in again.stdout and "tokenizing" not in again.stdout


def test_data_that_does_not_fill_a_row(home: Home, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "short.txt").write_text("A few words.\n" * 9)
    process = home.train("--num-iterations=3", "--max-seq-len=64", f"--dataset={tmp_path / 'text'}")
    assert process.code == 1
    assert_one_line(process.stderr, "text: its ", "tokens are too few to train and validate on rows of 64", "--max-seq-len")


def test_one_document_is_enough(home: Home, tmp_path: Path) -> None:
    """4 % of it are 14 bytes, so more is held out, and said so."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.jsonl").write_text(json.dumps({"text": "amber basil cedar delta ember fable grove " * 8}))
    process = home.train("--num-iterations=2", "--max-seq-len=16", f"--dataset={tmp_path / 'one'}")
    assert process.code == 0, process.stderr
    told = f"{tmp_path / 'one'}: small, so 8% at the end of each document are for validation, which fills a row of 16 tokens"
    assert told in process.stdout
    assert json.loads((home.base / "report" / "data.json").read_text())["values"]["held out"] == "8% at the end of each document"


def test_a_truncated_token_shard(home: Home) -> None:
    assert home.train("--num-iterations=2").code == 0
    before = home.contents()
    shard = max((home.base / "tokens").rglob("*.tokens"), key=lambda path: path.stat().st_size)
    os.truncate(shard, shard.stat().st_size - 2)
    process = home.train("--num-iterations=4", "--resume=never")
    assert process.code == 1
    assert_one_line(process.stderr, str(shard), f"delete {shard.parent} and the text is tokenized again")
    assert home.contents() == before


def test_a_base_folder_that_cannot_be_made(corpus: Path, warm: WarmStart, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = Home(tmp_path / "file" / "base", corpus, warm).train("--num-iterations=3")
    assert process.code == 1
    assert_one_line(process.stderr, str(tmp_path / "file" / "base"), "NANOCHAT_BASE_DIR")


def test_names_that_are_not_utf8(home: Home, tmp_path: Path) -> None:
    text = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(home.corpus, text)
    for _ in range(2):  # the second reads what the first has written
        process = home.train("--num-iterations=2", f"--dataset={text}")
        assert process.code == 0, process.stderr
    meta = json.loads((home.checkpoints / "step_0000002" / "meta.json").read_text("utf-8"))
    assert os.fsencode(meta["recipe"]["data"]["dataset"]).endswith(b"caf\xe9")


def test_core_without_its_bundle(home: Home) -> None:
    process = home.train("--num-iterations=3", "--core-metric-every=1")
    assert process.code == 1
    assert_one_line(process.stderr, "CORE needs its bundle", "--core-metric-every")


def test_an_unknown_dtype(home: Home) -> None:
    process = home.train("--num-iterations=3", environment={"NANOCHAT_DTYPE": "fp7"})
    assert process.code == 1
    assert_one_line(process.stderr, "fp7")


def test_a_loss_that_is_not_finite_stops_the_run(home: Home) -> None:
    assert home.train("--num-iterations=3", "--save-every=2", "--model-tag=tiny").code == 0
    process = home.train("--num-iterations=40", "--resume=never", "--save-every=1", "--lr-mult=1e38", "--warmup-steps=0")
    assert process.code == 1
    assert_one_line(process.stderr, "loss or gradient was not finite at steps", "bad_batches.jsonl", "--lr-mult")
    noted = [json.loads(line) for line in (home.metrics_file.with_name("bad_batches.jsonl")).read_text().splitlines()]
    assert len(noted) == 3
    hashes = {record["step"]: record["train/data_hash"] for record in home.metrics()}
    for record in noted:
        assert record["first_row"] == record["step"] * 8 and record["rows"] == 8
        assert record["data_hash"] == hashes.get(record["step"] + 1, record["data_hash"])
        assert f"step {record['step']}: loss or gradient is " in process.stdout


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can mount a file system")
def test_a_read_only_disk(home: Home) -> None:
    """Also the one plain start of `python -m`, with the flags spelled in every way that is allowed."""
    mounted = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("no mount namespaces here")
    assert home.train("--num-iterations=2").code == 0
    before = home.contents()
    command = [sys.executable, "-m", "scripts.base_train", "--", *SHAPE, "--num_iterations", "4", "--compile=0", f"--dataset={home.corpus}"]
    base = '"$NANOCHAT_BASE_DIR"'
    script = f"mount --bind {base} {base} && mount -o remount,ro,bind {base} && exec {shlex.join(command)}"
    process = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(home.base), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process.stderr
    assert_one_line(process.stderr, f"cannot write to {home.base}", "Read-only file system", "NANOCHAT_BASE_DIR")
    assert home.contents() == before
