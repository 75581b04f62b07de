"""`lm_eval --model local-completions` against a server, on a task of each kind: the numbers are those of our own evaluation."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tiny_chat import Server, running
from bench.warm_start import WarmStart
from nanochat.eval.bits_per_byte import evaluate_bpb
from nanochat.eval.core import score
from nanochat.eval.core_tasks import Option
from nanochat.infer.engine import Engine
from nanochat.infer.sampling import Sampling
from tests.helpers.tiny_model import save_base, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.clients

CONTEXT_TOKENS = 256
TOKENIZER = tiny_tokenizer()
MODEL = tiny_model(vocab_size=TOKENIZER.vocab_size, max_seq_len=CONTEXT_TOKENS)
QUESTIONS = [f"Question {i}: which letter follows {'abc' * i}?" for i in range(6)]
CHOICES = [" A", " B", " C"]
TEXTS = ["The capital of France is Paris.", "Grüße, señor — 東京 is a city.", "return True if it can"]
REPLY_TOKENS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm: WarmStart) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("models")
    save_base(base, MODEL, TOKENIZER)
    with running(warm, base, "-i", "base") as started:
        yield started


def write_task(folder: Path, name: str, documents: list[dict[str, Any]], **fields: Any) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        **fields,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML


def lm_eval(server: Server, folder: Path, tasks: str, as_tokens: bool) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Results and samples by task. Prompts are sent `as_tokens`, or else as text."""
    pytest.importorskip("lm_eval")
    settings = {
        "model": "base-tiny",
        "base_url": f"{server.url}/v1/completions",
        "tokenizer_backend": "remote",
        "tokenized_requests": as_tokens,
        "max_length": CONTEXT_TOKENS,
    }
    out = folder / f"out-{as_tokens}"
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", tasks, "--include_path", str(folder)),
        *("--model_args", ",".join(f"{name}={value}" for name, value in settings.items()), "--output_path", str(out), "--log_samples"),
    ]
    offline = {"HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("results_*.json")
    samples = {
        task: [json.loads(line) for path in out.rglob(f"samples_{task}_*.jsonl") for line in path.read_text().splitlines()]
        for task in tasks.split(",")
    }
    return json.loads(results.read_text())["results"], samples


def test_the_numbers_are_those_of_our_own_evaluation(server: Server, tmp_path: Path) -> None:
    prompts = [TOKENIZER.encode(question, bos=True) for question in QUESTIONS]
    # Our own: log-likelihoods of the choices, as CORE has them, greedy replies, and bits per byte.
    options = [Option(prompt + TOKENIZER.encode(choice), len(prompt)) for prompt in prompts for choice in CHOICES]
    scores = score(MODEL, options, 4096)
    nats = [mean * (len(option.tokens) - option.start) for (mean, _), option in zip(scores.tolist(), options, strict=True)]
    gold = [i % len(CHOICES) for i in range(len(QUESTIONS))]
    rows = [nats[i : i + len(CHOICES)] for i in range(0, len(nats), len(CHOICES))]
    solved = [row.index(min(row)) == right for row, right in zip(rows, gold, strict=True)]
    completions = Engine(MODEL).generate(prompts, Sampling(temperature=0, max_tokens=REPLY_TOKENS), (TOKENIZER.bos_id,))
    replies = [TOKENIZER.decode(completion.said) for completion in completions]
    token_bytes = torch.from_numpy(TOKENIZER.token_bytes())
    rows_of_text = [torch.tensor([TOKENIZER.encode(text, bos=True)]) for text in TEXTS]
    bits = evaluate_bpb(MODEL, [(row[:, :-1], row[:, 1:]) for row in rows_of_text], token_bytes)

    documents = [{"question": question, "choices": CHOICES, "gold": right} for question, right in zip(QUESTIONS, gold, strict=True)]
    choosing = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "gold"}
    write_task(
        tmp_path, "tiny_choice", documents, **choosing, doc_to_text="{{question}}", target_delimiter="", metric_list=[{"metric": "acc"}]
    )
    expected = [{"question": question, "reply": replies[i] if i % 2 else "no"} for i, question in enumerate(QUESTIONS)]
    until = {"until": ["<never>"], "max_gen_toks": REPLY_TOKENS, "temperature": 0}
    generating = {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "reply", "generation_kwargs": until}
    write_task(tmp_path, "tiny_reply", expected, **generating, metric_list=[{"metric": "exact_match"}])
    reading = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    write_task(tmp_path, "tiny_text", [{"text": text} for text in TEXTS], **reading, metric_list=[{"metric": "bits_per_byte"}])

    results, samples = lm_eval(server, tmp_path, "tiny_choice,tiny_reply", as_tokens=False)
    found = [float(answer[0]) for sample in samples["tiny_choice"] for answer in sample["filtered_resps"]]
    assert found == pytest.approx([-nat for nat in nats], abs=1e-3)
    assert results["tiny_choice"]["acc,none"] == pytest.approx(sum(solved) / len(solved))
    assert [sample["resps"][0][0] for sample in samples["tiny_reply"]] == replies
    assert results["tiny_reply"]["exact_match,none"] == pytest.approx(0.5)
    results, _ = lm_eval(server, tmp_path, "tiny_text", as_tokens=True)
    assert results["tiny_text"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)
    assert math.isfinite(bits)
