"""Evaluates a base model: bits per byte, samples, CORE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.base_samples import sample_base
from nanochat.common import UserError
from nanochat.core_eval import evaluate_core
from nanochat.core_tasks import GET_IT, bundle_folder, bundle_is_here
from nanochat.dataloader import RowLoader
from nanochat.dataset import open_source
from nanochat.flags import flag, parse, run
from nanochat.gpt import GPT
from nanochat.loading import load_model
from nanochat.loss_eval import evaluate_bpb, validation_batches
from nanochat.report import section
from nanochat.runtime import Runtime, RuntimeFlags, start
from nanochat.token_shards import open_tokens
from nanochat.tokenizer import Tokenizer

EVALUATIONS = ("bpb", "sample", "core")


@dataclass
class BaseEval:
    """Evaluate a base model: bits per byte, samples, CORE."""

    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the model written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    eval: str = flag("auto", "which of bpb,sample,core; auto = all, but core only where its bundle was downloaded")
    dataset: str | None = flag(None, "text source for the bits per byte; None = what the model was trained on")
    eval_tokens: int | None = flag(None, "tokens of each split for the bits per byte; None = as many as in training", unit="tokens")
    device_batch_size: int | None = flag(None, "rows in a forward of one process; None = as many as in training", unit="rows")
    core_metric_max_per_task: int = flag(-1, "examples of each CORE task; -1 = all", unit="examples")
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best this machine has")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # refuses a wrong one
        unknown = [name for name in self.eval.split(",") if name not in EVALUATIONS]
        if unknown and self.eval != "auto":
            raise ValueError(f"eval is {self.eval!r}; it must be auto or some of {','.join(EVALUATIONS)}")
        for name in ("eval_tokens", "device_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.core_metric_max_per_task < 1 and self.core_metric_max_per_task != -1:
            raise ValueError(f"core_metric_max_per_task is {self.core_metric_max_per_task}; give at least 1, or -1 for all")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates, prints and reports; returns the exit code."""
    config = parse(BaseEval, argv)
    if "core" in config.eval and not bundle_is_here():
        raise UserError(f"the CORE bundle is not here ({bundle_folder()}); get it so: {GET_IT}")
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))  # compiling takes longer than it saves here
    say: Callable[[str], None] = print if runtime.rank == 0 else lambda _: None
    say(runtime.describe())
    precision = runtime.precision.dtype
    model, tokenizer, meta = load_model("base", config.model_tag, config.step, runtime.device, precision, runtime.backend, say)
    _fill_in(config, meta)
    wanted = config.eval.split(",") if config.eval != "auto" else [e for e in EVALUATIONS if e != "core" or bundle_is_here()]
    values: dict[str, Any] = {"model": f"{meta['tag']}, step {meta['step']}"}
    if "bpb" in wanted:
        values |= _bits_per_byte(config, model, tokenizer, meta, runtime, say)
    if "sample" in wanted and runtime.rank == 0:
        values["samples"] = sample_base(model, tokenizer)
        for sample in values["samples"]:
            print(f"{'-' * 80}\n{sample['prompt']}⟶{sample['text']}")
    if "core" in wanted:
        batch_tokens = config.device_batch_size * model.config.max_seq_len
        result = evaluate_core(model, tokenizer, batch_tokens, config.core_metric_max_per_task, say=say)
        values |= {"core_metric": result.core, "core_accuracy": result.accuracy, "core_centered": result.centered}
        say(f"CORE: {result.core:.4f}")
    elif config.eval == "auto":
        say(f"CORE: left out, its bundle is not here; get it so: {GET_IT}")
    if runtime.rank == 0:
        section("base_evaluation", values)
    runtime.close()
    return 0


def _fill_in(config: BaseEval, meta: dict[str, Any]) -> None:
    """Takes what is not given from the training of the model, so that its figures compare with those of training."""
    recipe = meta.get("recipe")
    if recipe is None:
        raise UserError(f"the checkpoint of {meta['tag']} does not say how it was trained; train it with python -m scripts.base_train")
    if config.dataset is None:
        config.dataset = recipe["data"]["dataset"]
    if config.eval_tokens is None:
        config.eval_tokens = recipe["eval_tokens"]
    if config.device_batch_size is None:
        config.device_batch_size = recipe["trainer"]["device_batch_size"]


def _bits_per_byte(
    config: BaseEval, model: GPT, tokenizer: Tokenizer, meta: dict[str, Any], runtime: Runtime, say: Callable[[str], None]
) -> dict[str, float]:
    """Of the validation rows that training measures on, and of the first rows that it trains on."""
    recipe, source = meta["recipe"], open_source(config.dataset)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(runtime.device)
    model.use_kernels(compiled=False, chunked_ce=True)
    values = {}
    for split in ("train", "val"):
        shards = open_tokens(source, tokenizer, split, say=say)
        seed, shuffle = recipe["trainer"]["seed"], split == "train"
        loader = RowLoader(shards, model.config.max_seq_len, recipe["data"]["packing"], seed, shuffle, say)
        batches = validation_batches(loader, config.eval_tokens, config.device_batch_size, runtime)
        values[f"{split}_bpb"] = evaluate_bpb(model, batches, token_bytes)
        say(f"{split}: {values[f'{split}_bpb']:.4f} bits per byte")
    return values


if __name__ == "__main__":
    run(main)
