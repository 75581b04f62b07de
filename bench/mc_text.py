"""Worth of a memory on real text: the gain from far context, and the share of it that gists and focus recover.

    python -m bench.mc_text                     all five stages:
    python -m bench.mc_text --stage corpus      long documents, and a tokenizer trained on them
    python -m bench.mc_text --stage survey      a model without a memory: the gain from far context
    python -m bench.mc_text --stage memory      memories of each kind in that setting: the share they recover, at one decision point of
                                                each row (static) and, with layered gists, while reading (rolling)
    python -m bench.mc_text --stage cost        time of a token through a session, by that of one behind a window as large
    python -m bench.mc_text --stage long        the layered memory through sessions, behind histories of many rows

A call stops after `--minutes`, and the same command continues it. Models are trained by `scripts.base_train`, those with a memory
from the survey's model on, which stays frozen unless `--memory-flags` change that, or from scratch (`--memory-tokens 0`). All
measurements are on rows within one held-out document. Losses are paired, and standard errors are clustered by document.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.mc_text_cost import cost_stage
from bench.mc_text_long import long_stage
from bench.mc_text_rolling import INTERVALS, rolling_stage
from bench.mc_text_setting import JUDGED, Bench, McText, corpus_stage, numbers
from mc.eval.conditions import LAYOUTS
from mc.eval.paired_stats import PairedComparison, compare_rows
from mc.eval.row_eval import horizon_nll, make_probe, measure, token_nll, window_forward
from mc.loading import load_memory
from mc.memory_model import MemoryModel
from nanochat import flags
from nanochat.checkpoint.load_model import load_model
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.data.tokenizer import Tokenizer
from nanochat.model.gpt import GPT
from nanochat.runtime.device import RuntimeFlags, start

STATIC = 128  # horizon of a figure
STATIC_FIGURE = f"static_recovery_{STATIC}"
POSITIONS = 16  # parts of a row that the loss is shown for

Losses = dict[str, Tensor]  # fp32 [N] by condition


def survey_stage(bench: Bench) -> dict[str, Any]:
    """Trains without a memory and measures the gain from the context before a window."""
    config = bench.config
    tag = config.tag if config.stage == "survey" else config.surveyed
    if not bench.train(tag, config.steps):
        return {"finished": False}
    result = bench.home / "results" / f"{tag}.H{config.horizons}.W{config.windows}.N{config.eval_rows}.json"
    if result.exists():
        return read_json(result)
    runtime = start(RuntimeFlags(compile=False))
    model, tokenizer, _ = load_model("base", tag, None, runtime.device, runtime.precision.dtype, runtime.backend)
    rows, documents = bench.held_out(tokenizer)
    windows = numbers(config.windows) or sorted({min(256, config.budget), config.budget})
    surveyed = survey(model, bench.batches(rows), numbers(config.horizons), windows, bench.late)
    if surveyed is None:
        return {"finished": False}
    by_position, losses = surveyed
    gains = []
    for (horizon, window), conditions in losses.items():
        compared = compare_rows(conditions, documents)
        full, gain = compared.mean("full").value, compared.delta_nll("window")
        away = gain.value / gain.error if gain.error else float("nan")
        gains.append(
            {"horizon": horizon, "window": window, "nll_full": full, **gain.columns("gain"), "errors_away": away if away == away else None}
        )
        print(f"  H {horizon:>4}  window {window:>5}  full {full:.4f}  window − full {gain}  ({away:.1f} errors)", flush=True)
    print(f"  loss by position, {POSITIONS} parts of {config.max_seq_len} tokens: {' '.join(f'{nll:.3f}' for nll in by_position)}")
    parameters = sum(p.numel() for p in model.parameters())
    sample = {"rows": len(rows), "documents": len(documents.unique())}
    figures = {"finished": True, "parameters": parameters, **sample, "nll_by_position": by_position, "gains": gains}
    write_json(ensure_dir(result.parent) / result.name, figures)
    return figures


@torch.no_grad()
def survey(
    model: GPT, batches: Iterable[tuple[Tensor, Tensor]], horizons: list[int], windows: list[int], late: Callable[[], bool]
) -> tuple[list[float], dict[tuple[int, int], Losses]] | None:
    """(mean loss in each part of the rows; by horizon and window the rows' losses with the full context and with the window).

    None if the time ran out.
    """
    device, losses, positions = model.wte.weight.device, {}, []
    for tokens, targets in batches:
        if late():
            return None
        tokens, targets = tokens.to(device), targets.to(device)
        hidden = window_forward(model, tokens, 0, tokens.shape[1])  # all of it
        positions.append(token_nll(model, hidden, targets).cpu())
        for horizon in horizons:
            full = horizon_nll(model, hidden, targets, horizon).cpu()
            for window in windows:
                narrow = horizon_nll(model, window_forward(model, tokens, horizon, window), targets, horizon).cpu()
                losses.setdefault((horizon, window), []).append(torch.stack([full, narrow]))
    joined = {key: torch.cat(parts, dim=1) for key, parts in losses.items()}
    by_position = [part.mean().item() for part in torch.cat(positions).mean(0).tensor_split(POSITIONS)]
    return by_position, {key: {"full": full, "window": narrow} for key, (full, narrow) in joined.items()}


def memory_stage(bench: Bench) -> dict[str, Any]:
    """Trains a memory of each kind while there is time, and measures the finished ones."""
    config, memories = bench.config, []
    start_with = f"--init-from={config.surveyed}"
    if config.memory_tokens and config.steps not in CheckpointStore(base_dir() / "base_checkpoints" / config.surveyed).steps():
        raise UserError(f"no finished model {config.surveyed} to start from; run --stage survey with the same flags first")
    kinds = [(gist, slots) for gist in config.types.split(",") for slots in numbers(config.slots)]
    for gist, slots in kinds:
        tag = config.memory_tag(gist, slots)
        options = {"gistnet-type": gist, "gist-slots": slots, "allocator-recent-tokens": config.recent}
        options |= {"mc-infer-refocus-interval": min(INTERVALS)} if gist == "layered" else {}
        options |= {"mc-horizon": JUDGED, "mc-train-wc-length": config.budget + JUDGED}  # the horizon of training counts too
        flags_of_memory = ["--mc", *(f"--{name}={value}" for name, value in options.items()), *[start_with] * bool(config.memory_tokens)]
        if not bench.train(tag, config.memory_steps, *flags_of_memory):
            break
        result = bench.home / "results" / f"{tag}.H{config.horizons}.N{config.eval_rows}.json"
        if not result.exists():
            figures = measure_memory(bench, f"{tag}-mc")
            if figures is None:
                break
            write_json(ensure_dir(result.parent) / result.name, {"gistnet_type": gist, "gist_slots": slots, **figures})
        memories.append(read_json(result))
        print_memory(memories[-1])
        if gist == "layered":
            rolling = rolling_stage(bench, *_load(f"{tag}-mc"), tag)
            if rolling is None:
                break
            memories[-1] |= rolling
    return {"finished": len(memories) == len(kinds), "memories": memories, **_figures(memories)}


def sessions_stage(bench: Bench, measured: Callable[[Bench, MemoryModel, Tokenizer, str], dict[str, Any] | None]) -> dict[str, Any]:
    """Measures the layered memory through sessions, if there is one."""
    config = bench.config
    if "layered" not in config.types.split(","):
        return {}
    tag = config.memory_tag("layered", numbers(config.slots)[0])
    if config.memory_steps not in CheckpointStore(base_dir() / "base_checkpoints" / f"{tag}-mc").steps():
        raise UserError(f"no finished model {tag}-mc; run --stage memory with the same flags first")
    return measured(bench, *_load(f"{tag}-mc"), tag) or {"finished": False}


def _figures(memories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the last layered memory that was measured whole, at the top of the result."""
    for memory in reversed(memories):
        if "figures" in memory:
            static = {at["horizon"]: at["layouts"]["lens"] for at in memory["horizons"]}.get(STATIC, {})
            found = {f"{STATIC_FIGURE}{suffix}": static.get(f"recovery{suffix}") for suffix in ("", "_error")}
            return memory["figures"] | found
    return {}


def _load(tag: str) -> tuple[MemoryModel, Tokenizer]:
    runtime = start(RuntimeFlags(compile=False))
    memory, tokenizer, *_ = load_memory("base", tag, None, runtime.device, runtime.precision.dtype, runtime.backend)
    return memory, tokenizer


def measure_memory(bench: Bench, tag: str) -> dict[str, Any] | None:
    """ΔNLL and recovery of each layout at each horizon; None if the time ran out."""
    config, (memory, tokenizer) = bench.config, _load(tag)
    rows, documents = bench.held_out(tokenizer)
    probes = [make_probe(memory, horizon, config.budget, config.recent) for horizon in numbers(config.horizons)]
    losses = measure(memory, bench.batches(rows), probes, LAYOUTS, bench.late)
    if losses is None:
        return None
    compared = [compare_rows({name: values.cpu() for name, values in conditions.items()}, documents) for conditions in losses]
    horizons = [_at_horizon(probe.horizon, probe.width, figures) for probe, figures in zip(probes, compared, strict=True)]
    return {"recent": config.recent, "rows": len(rows), "documents": len(documents.unique()), "horizons": horizons}


def _at_horizon(horizon: int, entries: int, compared: PairedComparison) -> dict[str, Any]:
    layouts = {
        name: compared.delta_nll(name).columns("delta_nll") | compared.recovery(name).columns("recovery") for name in ("window", *LAYOUTS)
    }
    gain = compared.difference("random", "lens").columns("lens_gain")
    return {
        "horizon": horizon,
        "entries": entries,
        "nll_full": compared.mean("full").value,
        "rows": compared.rows,
        **gain,
        "layouts": layouts,
    }


def print_memory(memory: dict[str, Any]) -> None:
    """Prints a table of one memory's figures."""
    print(f"{memory['gistnet_type']} gists, {memory['gist_slots']} slots, {memory['recent']} recent tokens raw")
    for at in memory["horizons"]:
        print(f"  H {at['horizon']}, {at['entries']} entries, full context {at['nll_full']:.4f} nats", end="")
        print(f", random − lens {_shown(at, 'lens_gain')}")
        for name, figures in at["layouts"].items():
            print(f"    {name:<10} ΔNLL {_shown(figures, 'delta_nll')}   recovery {_shown(figures, 'recovery')}", flush=True)


def _shown(figures: dict[str, Any], name: str) -> str:
    values = (figures[name], figures[f"{name}_error"])
    return " ± ".join("–" if value is None else f"{value:.4f}" for value in values)


def main(argv: list[str] | None = None) -> int:
    """Runs stages while there is time, and prints the measurements and one line of JSON."""
    config = flags.parse(McText, argv)
    bench = Bench(config, config.home(), time.monotonic() + 60 * config.minutes)
    ensure_dir(bench.home)
    os.environ["NANOCHAT_BASE_DIR"] = str(bench.home)
    result: dict[str, Any] = {"stage": config.stage, "setting": config.setting(), "corpus": corpus_stage(bench), "finished": True}
    cost, long = (functools.partial(sessions_stage, measured=each) for each in (cost_stage, long_stage))
    for name, stage in (("survey", survey_stage), ("memory", memory_stage), ("cost", cost), ("long", long)):
        if config.stage in ("all", name) and result["finished"]:
            result |= stage(bench)
    if not result["finished"]:
        print("not finished: the same command continues from here", flush=True)
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    flags.run(main)
