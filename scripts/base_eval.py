"""Evaluates a base model: bits per byte, what its memory is worth where it has one, samples, CORE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mc.eval.paired_stats import compare_rows
from mc.eval.report import delta_nll_targets
from mc.eval.row_eval import measure, picture, training_probes
from mc.loading import build_controller, has_memory
from mc.session.describe import measure_focus
from mc.train.controller import MCController
from nanochat import markdown
from nanochat.checkpoint.load_model import build_model, open_trained
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.sources import SPLITS, Split, open_source
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.bits_per_byte import evaluate_bpb, validation_batches
from nanochat.eval.core import evaluate_core
from nanochat.eval.core_tasks import GET_IT, bundle_folder, bundle_is_here
from nanochat.eval.samples import sample_base
from nanochat.flags import flag, parse, run
from nanochat.model.gpt import GPT
from nanochat.report.sections import MEMORY, section
from nanochat.runtime.device import Runtime, RuntimeFlags, start

EVALUATIONS = ("bpb", "memory", "sample", "core")
MEMORY_HORIZONS = (32, 128, 512)  # tokens; those that fit the rows are measured
MEMORY_CONDITIONS = ("window", "random", "lens")


@dataclass
class BaseEval:
    """Evaluate a base model: bits per byte, memory, samples, CORE."""

    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the model written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    eval: str = flag("auto", "which of bpb,memory,sample,core; auto = all that model and downloads allow")
    dataset: str | None = flag(None, "text source for bits per byte and memory; None = what the model was trained on")
    eval_tokens: int | None = flag(None, "tokens of each split for bits per byte and memory; None = as many as in training", unit="tokens")
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
    trained = open_trained("base", config.model_tag, config.step, say)
    model = build_model(trained, runtime.device, runtime.precision.dtype, runtime.backend)
    model.use_kernels(compiled=False, chunked_ce=True)
    tokenizer, meta = trained.tokenizer, trained.meta
    memory = has_memory(meta)
    if "memory" in config.eval and not memory:
        raise UserError(f"{trained.name} was trained without a memory; leave memory out of --eval, or evaluate a model trained with --mc")
    _fill_in(config, meta)
    possible = [e for e in EVALUATIONS if (e != "core" or bundle_is_here()) and (e != "memory" or memory)]
    wanted = config.eval.split(",") if config.eval != "auto" else possible
    values: dict[str, Any] = {"model": f"{meta['tag']}, step {meta['step']}"}
    if "bpb" in wanted:
        values |= _bits_per_byte(config, model, tokenizer, meta, runtime, say)
    if "memory" in wanted:
        values |= _memory(config, build_controller(trained, model), tokenizer, meta, runtime, say)
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
        section(f"base_evaluation{MEMORY * memory}", values)
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
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(runtime.device)
    values = {}
    for split in SPLITS:
        batches = _batches(config, split, model.config.max_seq_len, tokenizer, meta, runtime, say)
        values[f"{split}_bpb"] = evaluate_bpb(model, batches, token_bytes)
        say(f"{split}: {values[f'{split}_bpb']:.4f} bits per byte")
    return values


def _memory(
    config: BaseEval, controller: MCController, tokenizer: Tokenizer, meta: dict[str, Any], runtime: Runtime, say: Callable[[str], None]
) -> dict[str, Any]:
    """ΔNLL@H and recovery@H on the validation rows, at the budget of the end of training."""
    probes = training_probes(controller, MEMORY_HORIZONS)
    if not probes:
        say(f"memory: rows of {controller.plan.length} tokens leave nothing to compress before {MEMORY_HORIZONS[0]} tokens to predict")
        return {}
    batches = _batches(config, "val", controller.plan.length, tokenizer, meta, runtime, say)
    losses = measure(controller, batches, probes, ("random", "lens"))
    rows: list[dict[str, Any]] = []
    for probe, row_losses in zip(probes, losses, strict=True):
        compared = compare_rows(row_losses)
        rows += [
            {
                "horizon": probe.horizon,
                "entries": probe.width,
                "layout": condition,
                "delta_nll": (delta := compared.delta_nll(condition)).value,
                "delta_nll_error": delta.error,
                "recovery": (recovery := compared.recovery(condition)).value,
                "recovery_error": recovery.error,
            }
            for condition in MEMORY_CONDITIONS
        ]
    say(markdown.table([markdown.label(name) for name in rows[0]], [list(row.values()) for row in rows], right=(0, 1, 3, 4, 5, 6)))
    targets = delta_nll_targets({row["horizon"]: row["delta_nll"] for row in rows if row["layout"] == "lens"})
    batches = _batches(config, "val", controller.plan.length, tokenizer, meta, runtime, say)
    layouts = [{"title": "A validation row, laid out in each way", "text": picture(controller, batches)}]
    values = {"memory": rows, "memory_rows": compared.rows, "targets": [target.row() for target in targets], "layouts": layouts}
    return values | _focus(config, controller, tokenizer, meta, runtime, layouts)


def _focus(
    config: BaseEval, controller: MCController, tokenizer: Tokenizer, meta: dict[str, Any], runtime: Runtime, layouts: list[dict[str, str]]
) -> dict[str, Any]:
    """How the focus moves when a session reads the validation rows one after the other; a picture goes to `layouts`."""
    if runtime.rank > 0 or controller.config.positional_type.endswith("alibi"):
        return {}
    batches = _batches(config, "val", controller.plan.length, tokenizer, meta, runtime, lambda _: None)
    measured = measure_focus(controller, torch.cat([tokens.flatten().cpu() for tokens, _ in batches]))
    if measured is None:
        return {}
    layouts.append({"title": "The Working Context of a session that has read validation rows", "text": measured.picture})
    return {"focus": measured.figures}


def _batches(
    config: BaseEval, split: Split, seq_len: int, tokenizer: Tokenizer, meta: dict[str, Any], runtime: Runtime, say: Callable[[str], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first rows of a split in the order of training."""
    recipe = meta["recipe"]
    shards = open_tokens(open_source(config.dataset), tokenizer, split, say=say)
    loader = RowLoader(shards, seq_len, recipe["data"]["packing"], recipe["trainer"]["seed"], split == "train", say)
    return validation_batches(loader, config.eval_tokens, config.device_batch_size, runtime)


if __name__ == "__main__":
    run(main)
