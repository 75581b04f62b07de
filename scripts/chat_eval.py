"""Evaluates a chat model: accuracy by task, ChatCORE, and ΔNLL@H if it has a memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mc.eval.report import delta_nll_criteria
from mc.eval.row_eval import HORIZONS, evaluate_memory
from mc.loading import build_memory, has_memory
from nanochat import markdown
from nanochat.checkpoint.load_model import Stage, Trained, build_model, latest_stage, open_trained
from nanochat.common import UserError
from nanochat.data.dataloader import RowLoader
from nanochat.data.fit_splits import fit_splits
from nanochat.data.sources import open_recorded
from nanochat.data.token_cache import open_tokens
from nanochat.eval.bits_per_byte import validation_batches
from nanochat.eval.chat_eval import ChatEvalFlags, chat_core, evaluate_tasks
from nanochat.flags import flag, parse, part, run
from nanochat.model.gpt import GPT
from nanochat.report.sections import MEMORY, section
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.tasks.humaneval import HumanEval
from nanochat.tasks.mixtures import evaluation_tasks
from nanochat.tasks.task import Task

STAGES: tuple[Stage, ...] = ("rl", "sft", "mid")  # the latest first


@dataclass
class ChatEval:
    """Evaluate a chat model on multiple-choice and generative tasks."""

    source: Literal["auto", "mid", "sft", "rl"] = flag("auto", "training stage of the model; auto = the latest available", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the newest model", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    tasks: str = flag("auto", "auto | demo | tasks, separated by commas; auto = those of the model's training mixture", alias=("-a",))
    unsafe_exec: bool = flag(False, "run the programs of humaneval without isolation")
    memory: bool = flag(True, "evaluate ΔNLL@H too, if the model has a memory")
    questions: ChatEvalFlags = part(ChatEvalFlags)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best available")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # refuses an invalid one


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates, prints and reports; returns the exit code."""
    config = parse(ChatEval, argv)
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))  # compiling takes longer than it saves here
    say = runtime.say
    say(runtime.describe())
    stage = latest_stage(config.model_tag, STAGES) if config.source == "auto" else config.source
    trained = open_trained(stage, config.model_tag, config.step, say)
    tasks, left_out = open_tasks(config, stage, trained, say)
    model = build_model(trained, runtime.device, runtime.precision.dtype, runtime.backend)
    model.use_kernels(compiled=False, chunked_ce=True)
    memory = has_memory(trained.meta)
    figures = memory_figures(trained, model, runtime) if memory and config.memory else {}
    results = evaluate_tasks(model, trained.tokenizer, tasks, config.questions, say)
    rows, core = [result.row() for result in results], chat_core(results)
    say(markdown.table([markdown.label(name) for name in rows[0]], [list(row.values()) for row in rows], right=range(2, len(rows[0]))))
    say(f"ChatCORE: {core:.4f}")
    if runtime.rank == 0:
        values: dict[str, Any] = {"model": f"{trained.folder.name}, {stage} step {trained.checkpoint.step}", "ChatCORE": core}
        samples = [{**result.sample, "text": result.sample["text"] or "(nothing)"} for result in results]
        lens = {horizon: figures[f"mc/delta_nll@{horizon}"] for horizon in HORIZONS if f"mc/delta_nll@{horizon}" in figures}
        targets = [target.row() for target in delta_nll_criteria(lens)]
        nests = {"tasks": rows, "memory": figures, "targets": targets, "left_out": left_out}
        name = "chat_evaluation" + "_rl" * (stage == "rl") + MEMORY * memory
        section(name, values | {k: v for k, v in nests.items() if v} | {"samples": samples})
        print(json.dumps({"model": values["model"], "chat_core": core, "tasks": {row.pop("task"): row for row in rows}, **figures}))
    runtime.close()
    return 0


def open_tasks(config: ChatEval, stage: Stage, trained: Trained, say: Callable[[str], None]) -> tuple[list[Task], dict[str, str]]:
    """The tasks, and why others of the list are left out. Raises `UserError` for one that was requested by name."""
    stages = trained.meta.get("fine_tuning", {})
    named = config.tasks != "auto"

    def check(task: Task) -> None:
        if isinstance(task, HumanEval):
            task.unsafe = config.unsafe_exec
        task.check_grading()

    name = config.tasks if named or stages.get(stage, {}).get("mixture") != "demo" else "demo"
    trained_on = [record[key] for record in stages.values() for key in ("mixture", "task") if record.get(key)]
    return evaluation_tasks(name, config.questions.seed, say, check, trained_on=trained_on)


def memory_figures(trained: Trained, model: GPT, runtime: Runtime) -> dict[str, float]:
    """ΔNLL@H and recovery@H on the validation rows of base training, at the final budget of training."""
    recipe = trained.meta.get("recipe")
    if recipe is None:
        raise UserError(f"{trained.name} has no record of its base training; give --memory 0, or train it again")
    source = fit_splits(open_recorded(recipe["data"]), trained.tokenizer, model.config.max_seq_len, runtime.say)
    shards = open_tokens(source, trained.tokenizer, "val", say=runtime.say)
    mc = build_memory(trained, model)
    loader = RowLoader(shards, mc.plan.length, recipe["data"]["packing"], recipe["trainer"]["seed"], False, runtime.say)
    batches = validation_batches(loader, recipe["eval_tokens"], recipe["trainer"]["device_batch_size"], runtime)
    figures = evaluate_memory(mc, batches) or {}
    for horizon in HORIZONS:
        if f"mc/delta_nll@{horizon}" in figures:
            of = {name: figures[f"mc/delta_nll{suffix}@{horizon}"] for name, suffix in (("lens", ""), ("window", "_window"))}
            runtime.say(f"memory: ΔNLL@{horizon} {of['lens']:.4f} nats, {of['window']:.4f} with the last tokens alone")
    return figures


if __name__ == "__main__":
    run(main)
