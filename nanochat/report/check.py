"""Release check of a run: the losses agree, nothing is missing, every checkpoint is intact, and the model replies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from nanochat import markdown
from nanochat.checkpoint.load_model import STAGES, Stage, latest_stage, load_model
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import ROOT, UserError, base_dir
from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import load_tokenizer
from nanochat.flags import flag
from nanochat.infer.conversation import ending, reply_pieces
from nanochat.infer.engine import Engine
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import ToolFlags
from nanochat.report.results import last_values
from nanochat.report.sections import CHECK, Collected, Entry, ReportedRun, collect, run_file, section
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.tracking.sinks import read_metrics

SAME_BPB = 0.01  # relative difference allowed between evaluation and training, which measure the same rows with other kernels
SAME_LOSS = 0.2  # nats per token by which plain rows may exceed the baseline: a few steps of a run as short as the demo
MAX_TOKENS = 64  # of the reply

Result = Literal["ok", "FAILED", "missing"]


class Point(NamedTuple):
    """One check and its finding; `found` includes what to do if it is not ok."""

    result: Result
    point: str
    model: str
    found: str

    def __str__(self) -> str:
        return f"{self.result:<8}{self.point}{f', {self.model}' * bool(self.model)}: {self.found}"


class SmokeReply(NamedTuple):
    """Text and number of the sampled tokens, the one that ended it included; `first_seconds` is the latency of the first."""

    text: str
    tokens: int
    first_seconds: float
    tokens_per_second: float


@dataclass
class Check:
    """Check a run before it is handed over: losses, completeness, checkpoints, a reply."""

    model_tag: str | None = flag(None, "tag of the model to check; None = all that have reported", alias=("-g", "tag"))
    source: Literal["auto", "base", "mid", "sft", "rl"] = flag("auto", "stage whose model replies; auto = the latest", alias=("-i",))
    prompt: str = flag("What is a MegaContext?", "prompt to reply to", alias=("-p",))
    json: bool = flag(False, "print one JSON object instead of lines")
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best available")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # raises for an invalid one
        if not self.prompt.strip():
            raise ValueError("invalid prompt: it is empty")


def check(config: Check) -> int:
    """Runs all checks, prints the findings and records them for the report. Returns 0 if all are ok, else 1."""
    collected = collect()
    runs = [run for run in collected.runs if config.model_tag in (None, run.tag)]
    if not runs:
        have = ", ".join(run.tag for run in collected.runs)
        raise UserError(f"no model {config.model_tag} has reported in {base_dir()}; expected --model-tag {have}")
    points: list[Point] = []
    for point in _points(config, collected, runs):
        points.append(point)
        if not config.json:
            print(point, flush=True)
    good = all(point.result == "ok" for point in points)
    values = {"models": [run.tag for run in runs], "ok": good, "points": [point._asdict() for point in points]}
    section(CHECK, values)
    if config.json:
        print(json.dumps(values, ensure_ascii=False))
    else:
        bad = sum(point.result != "ok" for point in points)
        print(f"{bad} of {len(points)} points are not ok" if bad else f"all {len(points)} points are ok: this can be handed over")
    return 0 if good else 1


def reply(stage: Stage, tag: str, prompt: str, device_type: str) -> SmokeReply:
    """Greedy reply of the model `tag` of `stage` to `prompt`, by the same path as `chat_cli -p`.

    The times do not include loading the model. Raises `UserError` if it cannot be loaded.
    """
    runtime = start(RuntimeFlags(device_type=device_type, compile=False))
    model, tokenizer, _ = load_model(stage, tag, None, runtime.device, runtime.precision.dtype, say=lambda _: None)
    base = stage == "base"
    messages = {"messages": [{"role": "user", "content": prompt}]}
    tokens = tokenizer.encode(prompt, bos=True) if base else render_prompt(tokenizer, messages)
    engine, stop = Engine(model, tools=None if base else ToolFlags().open(tokenizer)), ending(tokenizer, base)
    sampled, times = [], [time.monotonic()]
    for (token,) in engine.stream([tokens], Sampling(temperature=0.0, max_tokens=MAX_TOKENS), stop):
        times.append(time.monotonic())
        sampled.append(token)
    text = "".join(piece.text for piece in reply_pieces(tokenizer, sampled, stop))
    return SmokeReply(text, len(sampled), times[1] - times[0], len(sampled) / (times[-1] - times[0]))


def _points(config: Check, collected: Collected, runs: list[ReportedRun]) -> Iterator[Point]:
    """Runs the checks one by one."""
    yield _complete("", collected.shared)
    for run in runs:
        yield _complete(run.tag, run.entries)
        yield _samples(run)
        yield _evaluation_agrees(run)
        if run.ending:
            yield _plain_rows_agree(run, collected)
            yield from _within_targets(run)
        yield from _checkpoints(run)
        yield from _replies(config, run)


def _complete(tag: str, entries: Sequence[Entry]) -> Point:
    """Every stage has reported, and the runner has recorded its command."""
    wanted = [entry for entry in entries if entry.stage.required]
    failed = [entry.name for entry in wanted if entry.state in ("failed", "stopped")]
    missing = [entry.name for entry in wanted if entry.section is None and entry.name not in failed]
    by_hand = [entry.name for entry in wanted if entry.section is not None and entry.stamp is None]
    if failed:
        return Point("FAILED", "completeness", tag, f"{', '.join(failed)} ended early; see report/log.txt and run the recipe again")
    if missing:
        return Point("missing", "completeness", tag, f"{', '.join(missing)} left no section; run the recipe again")
    if by_hand:
        return Point("missing", "completeness", tag, f"{', '.join(by_hand)} left no stamp: the commands are unknown; use a runner")
    return Point("ok", "completeness", tag, f"{len(wanted)} stages with section and stamp")


def _samples(run: ReportedRun) -> Point:
    count = len(run.values("chat_evaluation").get("samples", ()))
    if not count:
        return Point("missing", "chat samples", run.tag, f"none; run python -m scripts.chat_eval --model-tag {run.tag}")
    return Point("ok", "chat samples", run.tag, str(count))


def _records(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    path = run_file(values["metrics_file"]) if "metrics_file" in values else None
    return read_metrics(path) if path is not None and path.exists() else []


def _evaluation_agrees(run: ReportedRun) -> Point:
    """The newest base checkpoint has the bits per byte that training measured at its end."""
    what = "loss parity, evaluation and training"
    trained = last_values(_records(run.values("base_training"))).get("val/bpb")
    values = run.values("base_evaluation")
    evaluated, steps = values.get("val_bpb"), CheckpointStore(base_dir() / "base_checkpoints" / run.tag).steps()
    if not isinstance(trained, float):
        return Point("missing", what, run.tag, "training logged no val/bpb; train with --eval-every above 0")
    again = f"run python -m scripts.base_eval --model-tag {run.tag}"
    if not isinstance(evaluated, float):
        return Point("missing", what, run.tag, f"base_eval reported no bits per byte; {again}")
    if steps and values.get("model") != (wanted := f"{run.tag}, step {steps[-1]}"):
        return Point("FAILED", what, run.tag, f"base_eval measured {values.get('model')}, the newest checkpoint is {wanted}; {again}")
    found = f"{evaluated:.4f} bits per byte at evaluation, {trained:.4f} at the end of training"
    if abs(evaluated - trained) > SAME_BPB * trained:
        return Point("FAILED", what, run.tag, f"{found}: more than {SAME_BPB:.0%} apart; check data and dtype, then {again}")
    return Point("ok", what, run.tag, found)


def _plain_rows_agree(run: ReportedRun, collected: Collected) -> Point:
    """Plain rows of a run with a memory have about the baseline's loss, over the last third of the steps that both logged."""
    what = "loss parity, plain rows and baseline"
    baseline = next((other for other in collected.runs if not other.ending), None)
    theirs = {r["step"]: r.get("train/loss") for r in _records(baseline.values("base_training") if baseline else {})}
    pairs = [(r["train/loss_lod0"], theirs.get(r["step"])) for r in _records(run.values("base_training")) if "train/loss_lod0" in r]
    differences = [ours - other for ours, other in pairs if ours is not None and other is not None]
    if not differences:
        return Point("missing", what, run.tag, "no baseline has logged the same steps; run the same without --mc in this base folder")
    last = differences[-max(1, len(differences) // 3) :]
    excess = sum(last) / len(last)
    found = f"{excess:+.4f} nats over the last {len(last)} records that both logged"
    if excess > SAME_LOSS:
        return Point("FAILED", what, run.tag, f"{found}, more than {SAME_LOSS}; compare the two with python -m scripts.compare")
    return Point("ok", what, run.tag, found)


def _within_targets(run: ReportedRun) -> Iterator[Point]:
    """ΔNLL is within its targets, as recorded by the evaluations of the base and of the chat model."""
    for name, script in (("base_evaluation", "base_eval"), ("chat_evaluation", "chat_eval")):
        targets = [row for row in run.values(name).get("targets", ()) if isinstance(row, dict)]
        what = f"ΔNLL, {script}"
        if not targets:
            yield Point("missing", what, run.tag, f"no target was recorded; run python -m scripts.{script} --model-tag {run.tag}")
            continue
        found = "; ".join(f"{row['figure']} {row['value']:.4f} ({row['limit']})" for row in targets)
        good = all(row["met"] == "met" for row in targets)
        advice = "" if good else "; look at mc/gist_kl and mc/lens_explained, or train longer"
        yield Point("ok" if good else "FAILED", what, run.tag, found + advice)


def _checkpoints(run: ReportedRun) -> Iterator[Point]:
    """The newest checkpoint of every training stage is intact, has this tokenizer, and is from the last planned step."""
    for entry in run.entries:
        if entry.stage.trains is None:
            continue
        folder, what = base_dir() / f"{entry.stage.trains}_checkpoints" / run.tag, f"checkpoint of {entry.stage.name}"
        store = CheckpointStore(folder)
        if steps := store.steps():
            yield _checkpoint(store, steps[-1], what, run.tag)
        elif entry.stage.required or entry.section is not None:
            yield Point("missing", what, run.tag, f"none in {folder}; run the recipe again")


def _checkpoint(store: CheckpointStore, step: int, what: str, tag: str) -> Point:
    if (why := store.verify(step)) is not None:
        return Point("FAILED", what, tag, f"step {step} is damaged: {why}; resume the stage from an earlier one")
    meta = store.load(step, groups=()).meta
    theirs, ours = meta.get("tokenizer"), load_tokenizer().fingerprint
    if theirs != ours:
        return Point("FAILED", what, tag, f"step {step} has the tokenizer {theirs}, {base_dir() / 'tokenizer'} is {ours}; restore its own")
    planned = meta.get("identity", {}).get("num_iterations")
    if planned != step:
        return Point("FAILED", what, tag, f"step {step} of {planned}: training has not finished; run the recipe again")
    return Point("ok", what, tag, f"step {step} of {planned}, every byte verified, tokenizer {ours}")


def _replies(config: Check, run: ReportedRun) -> Iterator[Point]:
    """The model replies; with a memory, also in a session."""
    what = "smoke test"
    stage = latest_stage(run.tag) if config.source == "auto" else config.source
    if not any((base_dir() / f"{stage}_checkpoints" / run.tag).glob("step_*")):
        wanted = stage if config.source != "auto" else " or ".join(STAGES)
        yield Point("missing", what, run.tag, f"there is no {wanted} model; train it, or give another --source")
        return
    try:
        answer = reply(stage, run.tag, config.prompt, config.device_type)
    except UserError as error:
        yield Point("FAILED", what, run.tag, str(error))
        return
    speed = f"first token after {answer.first_seconds:.3f} s, {answer.tokens} tokens at {answer.tokens_per_second:.1f}/s"
    if shown := _shown(answer.text):
        yield Point("ok", what, run.tag, f"{stage} replied {shown!r}; {speed}")
    else:
        yield Point("FAILED", what, run.tag, f"{stage} replied nothing to {config.prompt!r}; look at its samples")
    if run.ending:
        yield _session_replies(config, stage, run.tag)


def _session_replies(config: Check, stage: str, tag: str) -> Point:
    """Replies through the program itself, as a user would, in a session that is not saved."""
    what = "smoke test in a session"
    flags = ["-p", config.prompt, "-i", stage, "-g", tag, "--mc", f"--device-type={config.device_type}", "--max-tokens=64", "-t=0"]
    done = subprocess.run([sys.executable, "-m", "scripts.chat_cli", *flags], capture_output=True, text=True, cwd=ROOT)
    text = _shown(done.stdout)
    if done.returncode or not text:
        why = done.stderr.strip().rpartition("\n")[2] or "no reply"
        return Point("FAILED", what, tag, f"chat_cli --mc ended with exit code {done.returncode}: {why}")
    return Point("ok", what, tag, f"{stage} replied {text!r}")


def _shown(text: str) -> str:
    """The beginning of a reply, on one line."""
    line = markdown.visible(" ".join(text.split()))
    return line if len(line) <= 80 else f"{line[:79]}…"
