"""tok_train and tok_eval as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from scripts.tok_eval import bytes_per_token
from scripts.tok_train import Amount, limited


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=os.environ.copy())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of text with some of it for validation."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    words = Path(__file__).read_text(encoding="utf-8").split()
    for i in range(100):
        (folder / f"{i:03}.txt").write_text(" ".join(words[i:] + words[:i]) + f" {i}\n", encoding="utf-8")
    return folder


def test_train_then_evaluate(base: Path, corpus: Path) -> None:
    (corpus / "about.pdf").write_text("x")
    trained = run("scripts.tok_train", "--vocab-size", "500", "--dataset", str(corpus))
    assert trained.returncode == 0, trained.stderr
    assert "MB/s" in trained.stdout
    assert f"{corpus}/train: 100 files, " in trained.stdout and "1 file left out: about.pdf (unknown type)" in trained.stdout
    tokenizer = load_tokenizer()
    assert tokenizer.vocab_size == 500 and tokenizer.fingerprint in trained.stdout
    training = json.loads((base / "report" / "tokenizer_training.json").read_text())["values"]
    assert training["fingerprint"] == tokenizer.fingerprint and training["vocab_size"] == 500 and training["bytes"] > 0

    evaluated = run("scripts.tok_eval", "--dataset", str(corpus))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "english" in evaluated.stdout
    for rival in ("gpt2", "cl100k_base"):
        assert f"{rival}: not cached" in evaluated.stdout or rival in evaluated.stdout.splitlines()[-10]
    ours = json.loads((base / "report" / "tokenizer_evaluation.json").read_text())["values"]["bytes_per_token"]["ours"]
    assert {"english", "code", "numbers", "chinese"} < ours.keys()
    assert all(1 <= value < 20 for value in ours.values())


def test_evaluation_needs_a_tokenizer(base: Path, corpus: Path) -> None:
    result = run("scripts.tok_eval", "--dataset", str(corpus))
    assert result.returncode == 1
    assert result.stderr.startswith("error: no tokenizer in") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--vocab-size", "264"], 2, "invalid vocab_size 264: must be from 265"),
        (["--vocab-size", "many"], 2, "many"),
        (["--max-chars", "0"], 2, "invalid max_chars 0"),
        (["--doc-cap", "-1"], 2, "invalid doc_cap -1"),
        (["--vocab", "300"], 2, "unknown flag"),
        (["--vocab-size", "100000"], 1, "give more text or a smaller --vocab-size"),
        (["--dataset", "no/such/folder"], 1, "no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_damages_nothing(base: Path, corpus: Path, arguments: list[str], code: int, message: str) -> None:
    Tokenizer([(97, 98)]).save(base / "tokenizer")
    before = (base / "tokenizer" / "bpe.json").read_bytes()
    dataset = [] if "--dataset" in arguments else ["--dataset", str(corpus)]
    result = run("scripts.tok_train", *dataset, *arguments)
    assert result.returncode == code
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr
    assert (base / "tokenizer" / "bpe.json").read_bytes() == before


def test_the_limits_on_text() -> None:
    read = Amount()
    assert list(limited(iter(["abcdé", "fg", "hij", "never"]), max_chars=8, doc_cap=4, read=read)) == ["abcd", "fg", "hi"]
    assert (read.documents, read.bytes) == (3, 8)
    read = Amount()
    assert list(limited(["abcdé", ""], max_chars=100, doc_cap=0, read=read)) == ["abcdé", ""]
    assert (read.documents, read.bytes) == (2, 6)


def test_bytes_per_token() -> None:
    assert bytes_per_token(["aé", "b"], lambda text: [0] * len(text)) == pytest.approx(4 / 3)
