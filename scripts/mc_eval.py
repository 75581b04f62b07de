"""Evaluates a memory on long contexts: text, recall, and what a history costs."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mc.config import SessionConfig
from mc.eval.cost_eval import Kind, Which, measure_cost, peak_of
from mc.eval.report import REFERENCE, Target, charts, cost_targets, recall_targets
from mc.eval.session_baselines import CONDITIONS, Condition
from mc.eval.suite_eval import MQAR, Examiner, Prediction, Unfit, suite_rows
from mc.eval.text_eval import Effort, TextPoint, measure_text, text_rows
from mc.loading import LoadedController, load_controller
from mc.session.budget import Budget
from mc.session.hooks import SessionHooks
from mc.session.session import MCSession, session_spec
from mc.session.tree import RamTree
from mc.telemetry.provider import TelemetryFlags, open_telemetry
from mc.telemetry.sessions import SessionTelemetry
from mc.train.controller import MCController
from nanochat import markdown
from nanochat.checkpoint.load_model import Stage, latest_stage, newest_tag
from nanochat.common import UserError, base_dir, ensure_dir, write_json
from nanochat.data.sources import open_source
from nanochat.data.text_files import read_documents
from nanochat.data.token_cache import TokenCache, open_tokens
from nanochat.flags import flag, parse, part, run
from nanochat.profiling.memory_snapshot import open_memory_debug
from nanochat.report.sections import section
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.tasks.long.suite import SUITES
from nanochat.tracking.run_log import MC_SUFFIX

PARTS = ("text", *SUITES, MQAR, "cost")
LENGTHS, QUICK_LENGTHS = "1,2,4,8,16,32,64", "1,4,16"
EXAMPLES, QUICK_EXAMPLES = 16, 4
COST_LENGTHS = tuple(1 << power for power in range(10, 21, 2))  # tokens, to a million
QUICK_COST = 1 << 16
DECODED = 256  # tokens behind a history at most, but for those that text is judged on
TREES: tuple[Kind, ...] = ("ram", "disk")  # whichever --mc-tree says


@dataclass
class MCEval:
    """Evaluate a memory on long contexts: text, recall, and what a history costs."""

    source: Literal["auto", "base", "mid", "sft", "rl"] = flag("auto", "whose stage's model; auto = the latest there is", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the model with a memory written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    suite: str = flag("all", f"all | {' | '.join(PARTS)}, separated by commas; the beginning of a name is all that begin so")
    quick: bool = flag(False, f"lengths {QUICK_LENGTHS}, {QUICK_EXAMPLES} examples, costs up to {QUICK_COST:,} tokens, easy suites")
    lengths: str | None = flag(None, f"histories of text and recall, times the entries of a Working Context; None = {LENGTHS}")
    examples: int | None = flag(None, f"prompts of each suite and length, and documents; None = {EXAMPLES}", unit="examples")
    easy: bool | None = flag(None, "suites with short keys and values, which small models can learn; None = as quick")
    scoring: Literal["generate", "likelihood"] = flag("generate", "the model replies, or the right reply need only be its likeliest")
    conditions: str = flag(",".join(CONDITIONS), "what is compared")
    horizons: str = flag("32,128", "tokens to come that text is judged on", unit="tokens")
    full_limit: int = flag(0, "the longest history that is read in full, for comparison; 0 = the model's context length", unit="tokens")
    documents: str | None = flag(None, "folder or file of long texts; None = the validation texts of what the model was trained on")
    batch_size: int = flag(32, "histories that are gone on with at once", unit="histories")
    seed: int = flag(0, "seed of the suites and of random focus")
    session: SessionConfig = part(SessionConfig)
    telemetry: TelemetryFlags = part(TelemetryFlags)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best this machine has")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # refuses a wrong one
        for name in ("examples", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("full_limit", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if unknown := [name for name in self.conditions.split(",") if name not in CONDITIONS]:
            raise ValueError(f"conditions has {unknown[0]!r}; there are {','.join(CONDITIONS)}")
        for name in self.suite.split(","):
            if name != "all" and not (name and any(known.startswith(name) for known in PARTS)):
                raise ValueError(f"suite has {name!r}; there are all,{','.join(PARTS)}")
        self.multiples, self.judged = _numbers("lengths", self.lengths or self._default_lengths()), _numbers("horizons", self.horizons)

    def _default_lengths(self) -> str:
        return QUICK_LENGTHS if self.quick else LENGTHS

    @property
    def parts(self) -> list[str]:
        """What is to be measured."""
        names = self.suite.split(",")
        return [known for known in PARTS if any(name == "all" or known.startswith(name) for name in names)]

    @property
    def compared(self) -> list[Condition]:
        """The conditions, in their order."""
        return [condition for condition in CONDITIONS if condition in self.conditions.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates, prints and reports; returns the exit code."""
    config = parse(MCEval, argv)
    with contextlib.closing(SessionTelemetry(open_telemetry(config.telemetry, "megacontext-eval"))) as telemetry:
        return evaluate(config, telemetry.hooks("mc_eval"))


def evaluate(config: MCEval, hooks: SessionHooks) -> int:
    """See `main`; `hooks` sees the sessions whose focus is judged, not those whose cost is."""
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))
    if runtime.world_size > 1:
        raise UserError("mc_eval runs in one process; start it with python -m scripts.mc_eval")
    print(runtime.describe())
    ending = "" if config.model_tag else MC_SUFFIX
    stage = latest_stage(config.model_tag, ending=ending) if config.source == "auto" else config.source
    tag = config.model_tag or newest_tag(stage, ending)
    loaded = load_controller(stage, tag, config.step, runtime.device, runtime.precision.dtype, runtime.backend, print)
    debug = open_memory_debug(f"mc_eval-{stage}-{loaded.meta['tag']}", runtime.device)
    note = debug.record if debug is not None else lambda phase: None
    note("start")
    budget = _budget(loaded.controller, config)
    print(f"Working Context: {budget.most} entries, {budget.target} behind a refocus, {budget.recent} of them recent tokens")
    effort = Effort(
        config.examples or (QUICK_EXAMPLES if config.quick else EXAMPLES),
        config.batch_size,
        config.full_limit or loaded.controller.model.config.max_seq_len,
    )
    left_out: dict[str, str] = {}
    points = _text(config, loaded, budget, effort, left_out, hooks) if "text" in config.parts else []
    note("text")
    predictions = _recall(config, loaded, budget, effort, stage != "base", left_out, hooks)
    note("recall")
    cost = _cost(config, loaded, stage) if "cost" in config.parts else []
    note("cost")
    text, suites = text_rows(points, config.judged), suite_rows(predictions)
    if not (text or suites or cost):
        raise UserError("; ".join(f"{name}: {why}" for name, why in left_out.items()) + "; nothing is left to measure")
    targets = [*recall_targets(suites, budget.most), *cost_targets(cost)]
    _print(text, suites, cost, targets)
    folder = ensure_dir(base_dir() / f"{stage}_runs" / loaded.meta["tag"])
    values: dict[str, Any] = {
        "model": f"{loaded.meta['tag']}, {stage} step {loaded.meta['step']}",
        **{"entries": budget.most, "entries_behind_a_refocus": budget.target, "full_limit": effort.full_limit},
        "predictions_file": str(folder / "mc_eval.json"),
        "targets": [target.row() for target in targets],
    } | {name: rows for name, rows in {"text": text, "recall": suites, "cost": cost, "left_out": left_out}.items() if rows}
    settings = {key: value for key, value in asdict(config).items() if key != "telemetry"}
    write_json(folder / "mc_eval.json", values | {"flags": settings, "losses": _losses(points), "predictions": _predictions(predictions)})
    section("long_context", values | {"charts": charts(text, suites, cost)})
    print(json.dumps(values | {"targets": [target._asdict() for target in targets]}))
    runtime.close()
    return 0


def _numbers(name: str, text: str) -> list[int]:
    """Positive whole numbers in order, each once. Raises `ValueError` for another text."""
    if not all(item.isdecimal() and int(item) > 0 for item in text.split(",")):
        raise ValueError(f"{name} is {text!r}; it must be whole numbers from 1, separated by commas")
    return sorted({int(item) for item in text.split(",")})


def _budget(controller: MCController, config: MCEval) -> Budget:
    """The budget, in which all histories must have room. Raises `UserError` where one has not."""
    try:
        session = MCSession(controller, RamTree(session_spec(controller, config.session)), config.session)
    except ValueError as error:
        raise UserError(str(error)) from error
    multiples = [] if config.parts == ["cost"] else config.multiples
    most = max([*(multiple * session.budget.most for multiple in multiples), *_cost_lengths(config)]) + max(
        *config.judged, DECODED, 5 * session.budget.interval
    )
    if most > session.capacity:
        raise UserError(
            f"a Working Context of {session.budget.most} entries has room for {session.capacity:,} tokens of history, and {most:,} are "
            "asked for; give shorter --lengths, more --mc-session-lod, or more --allocator-soft-max-length"
        )
    return session.budget


def _cost_lengths(config: MCEval) -> list[int]:
    if "cost" not in config.parts:
        return []
    return [length for length in COST_LENGTHS if not config.quick or length <= QUICK_COST]


def _text(
    config: MCEval, loaded: LoadedController, budget: Budget, effort: Effort, left_out: dict[str, str], hooks: SessionHooks
) -> list[TextPoint]:
    horizon = max(config.judged)
    lengths = [multiple * budget.most for multiple in config.multiples]
    documents = _documents(config, loaded, effort.examples * len(lengths), lengths[-1] + horizon)
    longest = max(map(len, documents), default=0)
    if short := [length for length in lengths if length + horizon > longest]:
        left_out["text"] = (
            f"no document has the {short[0] + horizon:,} tokens that {len(short)} of the lengths take; the longest has {longest:,}"
        )
        print(f"text: {left_out['text']}")
    return measure_text(loaded.controller, documents, config.session, lengths, horizon, config.compared, effort, config.seed, print, hooks)


def _documents(config: MCEval, loaded: LoadedController, count: int, most: int) -> list[Tensor]:
    """The first `most` tokens of the `count` longest documents, the longest first."""
    if config.documents is not None:
        texts = (text for file in open_source(config.documents).files for text in read_documents(file.path) if text)
        documents = sorted((torch.tensor(loaded.tokenizer.encode(text, bos=True)) for text in texts), key=len, reverse=True)
        return [document[:most] for document in documents[:count]]
    shards = _shards(loaded)
    spans = [(int(b - a), number, int(a)) for number, s in enumerate(shards.shards) for a, b in zip(s.offsets, s.offsets[1:], strict=False)]
    longest = sorted(spans, reverse=True)[:count]
    return [torch.from_numpy(shards.shards[number].tokens[at : at + min(size, most)].astype("int64")) for size, number, at in longest]


def _shards(loaded: LoadedController) -> TokenCache:
    """The validation tokens of base training."""
    recipe = loaded.meta.get("recipe")
    if recipe is None:
        raise UserError(
            f"the checkpoint of {loaded.meta['tag']} does not say what it was trained on; give --documents, and --suite without cost"
        )
    return open_tokens(open_source(recipe["data"]["dataset"]), loaded.tokenizer, "val")


def _recall(
    config: MCEval, loaded: LoadedController, budget: Budget, effort: Effort, chat: bool, left_out: dict[str, str], hooks: SessionHooks
) -> list[Prediction]:
    easy = config.quick if config.easy is None else config.easy
    examiner = Examiner(
        loaded.controller, loaded.tokenizer, config.session, config.compared, effort, chat, config.scoring, easy, config.seed, hooks
    )
    predictions: list[Prediction] = []
    for suite in (name for name in config.parts if name not in ("text", "cost")):
        for multiple in config.multiples:
            try:
                made = examiner.run(suite, multiple * budget.most)
            except Unfit as error:
                left_out[f"{suite} {multiple} × W"] = str(error)
                print(f"{suite} {multiple} × W is left out: {error}")
                continue
            predictions += made
            shares = ", ".join(f"{row['condition']} {row['accuracy']:.2f}" for row in suite_rows(made))
            print(f"{suite} {multiple} × W: {shares}", flush=True)
    return predictions


def _cost(config: MCEval, loaded: LoadedController, stage: Stage) -> list[dict[str, Any]]:
    """Of histories of the validation text, over and over."""
    text = torch.cat([torch.from_numpy(shard.tokens.astype("int64")) for shard in _shards(loaded).shards])

    def tokens(begin: int, end: int) -> Tensor:
        return text[torch.arange(begin, end) % len(text)]

    which = Which(stage, loaded.meta["tag"], loaded.meta["step"], config.device_type)
    lengths = _cost_lengths(config)
    with tempfile.TemporaryDirectory(prefix="mc-eval-", dir=ensure_dir(base_dir())) as folder:
        rows = measure_cost(loaded.controller, config.session, tokens, lengths, TREES, Path(folder), say=print)
        for row in rows:
            wanted = row["tokens"] >= REFERENCE and not (config.quick and REFERENCE < row["tokens"] < lengths[-1])
            row["peak_mib"] = peak_of(which, config.session, row["tree"], row["tokens"], Path(folder)) if wanted else None
    return rows


def _losses(points: Sequence[TextPoint]) -> list[dict[str, Any]]:
    return [
        {"document": point.document, "tokens": point.length, "condition": name, "losses": [round(loss, 5) for loss in losses.tolist()]}
        for point in points
        for name, losses in point.losses.items()
    ]


def _predictions(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    return [prediction._asdict() for prediction in predictions]


def _print(text: Sequence[dict], suites: Sequence[dict], cost: Sequence[dict], targets: Sequence[Target]) -> None:
    for rows in (text, suites, cost):
        if rows:
            numbers = [i for i, value in enumerate(rows[0].values()) if not isinstance(value, str)]
            print(markdown.table([markdown.label(name) for name in rows[0]], [list(row.values()) for row in rows], right=numbers))
    for target in targets:
        print(target)


if __name__ == "__main__":
    run(main)
