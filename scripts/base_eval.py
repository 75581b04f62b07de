"""Evaluates a base model: bits per byte, its memory if it has one, samples, CORE."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mc.eval.conditions import Condition
from mc.eval.paired_stats import compare_rows
from mc.eval.report import delta_nll_criteria
from mc.eval.rolling import measure_rolling, rolling_setting
from mc.eval.row_eval import measure, picture, training_probes
from mc.loading import build_memory, has_memory
from mc.memory_model import MemoryModel
from mc.session.describe import measure_focus
from nanochat import markdown
from nanochat.checkpoint.load_model import Trained, build_model, open_trained
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.fit_splits import fit_splits
from nanochat.data.sources import Source, open_source
from nanochat.data.splits import SPLITS, Split
from nanochat.data.text_files import COLUMN
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer
from nanochat.eval.bits_per_byte import evaluate_bpb, validation_batches
from nanochat.eval.core import evaluate_core
from nanochat.eval.core_tasks import GET_IT, bundle_folder, bundle_is_here
from nanochat.eval.samples import sample_base
from nanochat.flags import check, flag, parse, run
from nanochat.model.gpt import GPT
from nanochat.report.sections import MEMORY, section
from nanochat.runtime.device import Runtime, RuntimeFlags, start

EVALUATIONS = ("bpb", "memory", "sample", "core")
MEMORY_HORIZONS = (32, 128, 512)  # tokens; those that fit the rows are measured
MEMORY_CONDITIONS: tuple[Condition, ...] = ("window", "random", "lens")

Batches = Callable[[Split], Iterator[tuple[Tensor, Tensor]]]


@dataclass
class BaseEval:
    """Evaluate a base model: bits per byte, memory, samples, CORE."""

    model_tag: str | None = flag(None, "checkpoint folder; None = the model written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = newest", alias=("-s",))
    eval: str = flag("auto", "some of bpb,memory,sample,core; auto = all that model and downloads allow")
    dataset: str | None = flag(None, "text source for bits per byte and memory; None = that of training")
    text_column: str | None = flag(None, "key or column of its text; None = that of training")
    eval_tokens: int | None = flag(None, "tokens of each split for bits per byte and memory; None = as in training", unit="tokens")
    device_batch_size: int | None = flag(None, "batch size per process; None = as in training", unit="rows")
    core_metric_max_per_task: int = flag(-1, "examples of each CORE task; -1 = all", unit="examples")
    device_type: str = flag("auto", "cuda, cpu or mps; auto = best available")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # checks it
        unknown = [name for name in self.eval.split(",") if name not in EVALUATIONS]
        if unknown and self.eval != "auto":
            raise ValueError(f"eval is {self.eval!r}; it must be auto or some of {','.join(EVALUATIONS)}")
        check(self, lambda value: value is None or value >= 1, "must be at least 1", "eval_tokens", "device_batch_size")
        check(self, lambda value: value >= 1 or value == -1, "must be at least 1, or -1 for all", "core_metric_max_per_task")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates, prints and reports; returns the exit code."""
    config = parse(BaseEval, argv)
    if "core" in config.eval and not bundle_is_here():
        raise UserError(f"the CORE bundle does not exist ({bundle_folder()}); get it with: {GET_IT}")
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))  # compilation takes longer than it saves here
    say = runtime.say
    say(runtime.describe())
    trained = open_trained("base", config.model_tag, config.step, say)
    model = build_model(trained, runtime.device, runtime.precision.dtype, runtime.backend)
    model.use_kernels(compiled=False, chunked_ce=True)
    tokenizer, meta = trained.tokenizer, trained.meta
    memory = has_memory(meta)
    if "memory" in config.eval and not memory:
        raise UserError(f"{trained.name} was trained without a memory; leave memory out of --eval, or evaluate a model trained with --mc")
    _fill_in(config, meta)
    batches = _open_batches(config, trained, model.config.max_seq_len, runtime)
    possible = [e for e in EVALUATIONS if (e != "core" or bundle_is_here()) and (e != "memory" or memory)]
    wanted = config.eval.split(",") if config.eval != "auto" else possible
    values: dict[str, Any] = {"model": f"{meta['tag']}, step {meta['step']}"}
    if "bpb" in wanted:
        values |= _bits_per_byte(model, tokenizer, batches, say)
    if "memory" in wanted:
        values |= _memory(build_memory(trained, model), batches, runtime)
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
        say(f"CORE: left out, its bundle does not exist; get it with: {GET_IT}")
    if runtime.rank == 0:
        section(f"base_evaluation{MEMORY * memory}", values)
    runtime.close()
    return 0


def _fill_in(config: BaseEval, meta: dict[str, Any]) -> None:
    """Sets flags that are not given as in the model's training, so that figures are comparable with those of training."""
    recipe = meta.get("recipe")
    if recipe is None:
        raise UserError(f"the checkpoint of {meta['tag']} has no training settings; train it with python -m scripts.base_train")
    if config.dataset is None:
        config.dataset = recipe["data"]["dataset"]
    if config.text_column is None:
        config.text_column = recipe["data"].get("text_column", COLUMN)
    if config.eval_tokens is None:
        config.eval_tokens = recipe["eval_tokens"]
    if config.device_batch_size is None:
        config.device_batch_size = recipe["trainer"]["device_batch_size"]


def _open_batches(config: BaseEval, trained: Trained, seq_len: int, runtime: Runtime) -> Batches:
    """The first rows of a split in the order of training, as batches."""
    recipe = trained.meta["recipe"]

    @functools.cache
    def source() -> Source:
        return fit_splits(open_source(config.dataset, config.text_column), trained.tokenizer, seq_len, runtime.say)

    @functools.cache
    def loader(split: Split) -> RowLoader:
        tokens = open_tokens(source(), trained.tokenizer, split, say=runtime.say)
        return RowLoader(tokens, seq_len, recipe["data"]["packing"], recipe["trainer"]["seed"], split == "train", runtime.say)

    return lambda split: validation_batches(loader(split), config.eval_tokens, config.device_batch_size, runtime)


def _bits_per_byte(model: GPT, tokenizer: Tokenizer, batches: Batches, say: Callable[[str], None]) -> dict[str, float]:
    """Bits per byte of the validation rows that training evaluates on, and of the first training rows."""
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(model.wte.weight.device)
    values = {}
    for split in SPLITS:
        values[f"{split}_bpb"] = evaluate_bpb(model, batches(split), token_bytes)
        say(f"{split}: {values[f'{split}_bpb']:.4f} bits per byte")
    return values


def _memory(memory: MemoryModel, batches: Batches, runtime: Runtime) -> dict[str, Any]:
    """ΔNLL@H and recovery@H on the validation rows, at the budget of the end of training, and layouts.

    `memory_rows@H` is the number of rows with a target in the horizon; `memory_rows` repeats that of the widest.
    """
    probes = training_probes(memory, MEMORY_HORIZONS)
    if not probes:
        runtime.say(f"memory: rows of {memory.plan.length} tokens leave nothing to compress before {MEMORY_HORIZONS[0]} tokens to predict")
        return {}
    compared = list(zip(probes, map(compare_rows, measure(memory, batches("val"), probes, ("random", "lens"))), strict=True))
    rows = [
        {
            "horizon": probe.horizon,
            "entries": probe.width,
            "layout": condition,
            **comparison.delta_nll(condition).columns("delta_nll"),
            **comparison.recovery(condition).columns("recovery"),
        }
        for probe, comparison in compared
        for condition in MEMORY_CONDITIONS
    ]
    runtime.say(markdown.table([markdown.label(name) for name in rows[0]], [list(row.values()) for row in rows], right=(0, 1, 3, 4, 5, 6)))
    rolling = _rolling(memory, batches, runtime)
    criteria = delta_nll_criteria({row["horizon"]: row["delta_nll"] for row in rows if row["layout"] == "lens"})
    layouts = [{"title": "A validation row, laid out in each way", "text": picture(memory, batches("val"))}]
    counts = {f"memory_rows@{probe.horizon}": comparison.rows for probe, comparison in compared}
    values = {"memory": rows, **rolling, **counts, "memory_rows": counts[f"memory_rows@{probes[-1].horizon}"]}
    values |= {"targets": [criterion.row() for criterion in criteria], "layouts": layouts}
    if runtime.rank > 0:
        return values
    measured = measure_focus(memory, torch.cat([tokens.flatten().cpu() for tokens, _ in batches("val")]))
    if measured is None:
        return values
    layouts.append({"title": "The Working Context of a session that has read validation rows", "text": measured.picture})
    return values | {"focus": measured.figures}


def _rolling(memory: MemoryModel, batches: Batches, runtime: Runtime) -> dict[str, Any]:
    """ΔNLL and recovery over the second half of the validation rows, with a refocus as often as in a session."""
    setting = rolling_setting(memory)
    if setting is None:
        return {}
    compared = compare_rows(measure_rolling(memory, batches("val"), setting))
    rows = [
        {
            "interval": setting.interval,
            "entries": setting.width,
            "layout": condition,
            **compared.delta_nll(condition).columns("delta_nll"),
            **compared.recovery(condition).columns("recovery"),
        }
        for condition in MEMORY_CONDITIONS
    ]
    runtime.say(markdown.table([markdown.label(name) for name in rows[0]], [list(row.values()) for row in rows], right=(0, 1, 3, 4, 5, 6)))
    return {"rolling": rows}


if __name__ == "__main__":
    run(main)
