"""Evaluates a memory on long contexts: text, recall, and the cost of a history."""

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
from mc.eval.conditions import OLD_NAMES, Condition
from mc.eval.cost_eval import MemorySource, TreeType, measure_cost, peak_of
from mc.eval.report import REFERENCE, Criterion, charts, cost_criteria, recall_criteria
from mc.eval.session_baselines import SESSION_CONDITIONS, SessionEval
from mc.eval.suite_eval import MQAR, Examiner, Prediction, Unfit, suite_rows
from mc.eval.text_eval import TextPoint, measure_text, text_rows
from mc.loading import LoadedMemory, load_memory
from mc.memory_model import MemoryModel
from mc.session.base_session import session_spec
from mc.session.budget import Budget
from mc.session.hooks import SessionHooks
from mc.session.session import start_session
from mc.session.tree import RamTree
from mc.telemetry.provider import TelemetryFlags, open_telemetry
from mc.telemetry.sessions import SessionTelemetry
from nanochat import markdown
from nanochat.checkpoint.load_model import Stage, latest_stage, newest_tag
from nanochat.common import UserError, base_dir, ensure_dir, write_json
from nanochat.data.fit_splits import fit_splits
from nanochat.data.sources import open_recorded, open_source
from nanochat.data.text_files import COLUMN
from nanochat.data.token_cache import TokenCache, open_tokens
from nanochat.flags import check, flag, parse, part, run
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
DECODED = 256  # most tokens decoded behind a history, apart from the horizons of text
TREES: tuple[TreeType, ...] = ("ram", "disk")  # both, independent of --mc-tree


@dataclass
class MCEval:
    """Evaluate a memory on long contexts: text, recall, and the cost of a history."""

    source: Literal["auto", "base", "mid", "sft", "rl"] = flag("auto", "training stage of the model; auto = latest", alias=("-i",))
    model_tag: str | None = flag(None, "checkpoint folder; None = the model with a memory written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = newest", alias=("-s",))
    suite: str = flag("all", f"all | {' | '.join(PARTS)}, comma-separated; a prefix selects every name that begins with it")
    quick: bool = flag(False, f"lengths {QUICK_LENGTHS}, {QUICK_EXAMPLES} examples, costs up to {QUICK_COST:,} tokens, easy suites")
    lengths: str | None = flag(None, f"lengths of text and recall histories, in Working Contexts; None = {LENGTHS}")
    examples: int | None = flag(None, f"prompts of each suite and length, and documents; None = {EXAMPLES}", unit="examples")
    easy: bool | None = flag(None, "suites with short keys and values, which small models can learn; None = same as quick")
    scoring: Literal["generate", "likelihood"] = flag("generate", "generate = greedy reply; likelihood = every reference token is argmax")
    conditions: str = flag(",".join(SESSION_CONDITIONS), "conditions to compare, comma-separated")
    horizons: str = flag("32,128", "numbers of next tokens that text is evaluated on, comma-separated", unit="tokens")
    full_limit: int = flag(0, "longest history for the condition full; 0 = the model's context length", unit="tokens")
    documents: str | None = flag(None, "folder, file or glob of long texts, as --dataset of training; None = training's validation texts")
    text_column: str = flag(COLUMN, "key or column of the text in the documents; dots reach nested ones, as in meta.text")
    batch_size: int = flag(32, "histories decoded in one batch", unit="histories")
    seed: int = flag(0, "seed of the suites and of random focus")
    session: SessionConfig = part(SessionConfig)
    telemetry: TelemetryFlags = part(TelemetryFlags)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = best available")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # checks it
        check(self, lambda value: value is None or value >= 1, "must be at least 1", "examples", "batch_size")
        check(self, lambda value: value >= 0, "must not be negative", "full_limit", "seed")
        if unknown := [name for name in self._condition_names if name not in SESSION_CONDITIONS]:
            raise ValueError(f"invalid conditions: {unknown[0]!r} is unknown; expected some of {','.join(SESSION_CONDITIONS)}")
        for name in self.suite.split(","):
            if name != "all" and not (name and any(known.startswith(name) for known in PARTS)):
                raise ValueError(f"invalid suite: {name!r} is unknown; expected some of all,{','.join(PARTS)}")
        lengths = self.lengths or (QUICK_LENGTHS if self.quick else LENGTHS)
        self.multiples, self.judged = _numbers("lengths", lengths), _numbers("horizons", self.horizons)

    @property
    def _condition_names(self) -> list[str]:
        return [OLD_NAMES.get(name, name) for name in self.conditions.split(",")]

    @property
    def parts(self) -> list[str]:
        """Parts of the evaluation to run."""
        names = self.suite.split(",")
        return [known for known in PARTS if any(name == "all" or known.startswith(name) for name in names)]

    @property
    def compared(self) -> list[Condition]:
        """Conditions to compare, in their order."""
        return [condition for condition in SESSION_CONDITIONS if condition in self._condition_names]


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates, prints and reports; returns the exit code."""
    config = parse(MCEval, argv)
    with contextlib.closing(SessionTelemetry(open_telemetry(config.telemetry, "megacontext-eval"))) as telemetry:
        return evaluate(config, telemetry.hooks("mc_eval"))


def evaluate(config: MCEval, hooks: SessionHooks) -> int:
    """See `main`; `hooks` observes the sessions of text and recall, not those whose cost is measured."""
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))
    if runtime.world_size > 1:
        raise UserError("mc_eval runs in one process; start it with python -m scripts.mc_eval")
    print(runtime.describe())
    ending = "" if config.model_tag else MC_SUFFIX
    stage = latest_stage(config.model_tag, ending=ending) if config.source == "auto" else config.source
    tag = config.model_tag or newest_tag(stage, ending)
    loaded = load_memory(stage, tag, config.step, runtime.device, runtime.precision.dtype, runtime.backend, print)
    debug = open_memory_debug(f"mc_eval-{stage}-{loaded.meta['tag']}", runtime.device)
    note = debug.record if debug is not None else lambda phase: None
    note("start")
    budget = _budget(loaded.memory, config)
    print(f"Working Context: {budget.most} entries, {budget.target} after a refocus, {budget.recent} of them recent tokens")
    evaluation = SessionEval(
        loaded.memory,
        config.session,
        config.compared,
        config.examples or (QUICK_EXAMPLES if config.quick else EXAMPLES),
        config.batch_size,
        config.full_limit or loaded.memory.model.config.max_seq_len,
        config.seed,
        hooks,
    )
    left_out: dict[str, str] = {}
    points = _text(config, loaded, evaluation, budget, left_out) if "text" in config.parts else []
    note("text")
    easy = config.quick if config.easy is None else config.easy
    predictions = _recall(config, Examiner(evaluation, loaded.tokenizer, stage != "base", config.scoring, easy), budget, left_out)
    note("recall")
    cost = _cost(config, loaded, stage) if "cost" in config.parts else []
    note("cost")
    text, suites = text_rows(points, config.judged), suite_rows(predictions)
    if not (text or suites or cost):
        raise UserError("; ".join(f"{name}: {why}" for name, why in left_out.items()) + "; nothing is left to measure")
    criteria = [*recall_criteria(suites, budget.most), *cost_criteria(cost)]
    _print(text, suites, cost, criteria)
    folder = ensure_dir(base_dir() / f"{stage}_runs" / loaded.meta["tag"])
    values: dict[str, Any] = {
        "model": f"{loaded.meta['tag']}, {stage} step {loaded.meta['step']}",
        **{"entries": budget.most, "entries_behind_a_refocus": budget.target, "full_limit": evaluation.full_limit},
        "predictions_file": str(folder / "mc_eval.json"),
        "targets": [criterion.row() for criterion in criteria],
    } | {name: rows for name, rows in {"text": text, "recall": suites, "cost": cost, "left_out": left_out}.items() if rows}
    settings = {key: value for key, value in asdict(config).items() if key != "telemetry"}
    predicted = [prediction._asdict() for prediction in predictions]
    write_json(folder / "mc_eval.json", values | {"flags": settings, "losses": _losses(points), "predictions": predicted})
    section("long_context", values | {"charts": charts(text, suites, cost)})
    print(json.dumps(values | {"targets": [criterion._asdict() for criterion in criteria]}))
    runtime.close()
    return 0


def _numbers(name: str, text: str) -> list[int]:
    """Sorted distinct positive integers. Raises `ValueError` for any other text."""
    if not all(item.isdecimal() and int(item) > 0 for item in text.split(",")):
        raise ValueError(f"{name} is {text!r}; it must be whole numbers from 1, separated by commas")
    return sorted({int(item) for item in text.split(",")})


def _budget(memory: MemoryModel, config: MCEval) -> Budget:
    """The budget. Raises `UserError` if it has no room for one of the histories."""
    try:
        session = start_session(memory, RamTree(session_spec(memory, config.session)), config.session)
    except ValueError as error:
        raise UserError(str(error)) from error
    multiples = [] if config.parts == ["cost"] else config.multiples
    most = max([*(multiple * session.budget.most for multiple in multiples), *_cost_lengths(config)]) + max(
        *config.judged, DECODED, 5 * session.budget.interval
    )
    if most > session.capacity:
        raise UserError(
            f"a Working Context of {session.budget.most} entries has room for {session.capacity:,} tokens of history, not for {most:,}; "
            "give shorter --lengths, more --mc-session-lod, or more --allocator-soft-max-length"
        )
    return session.budget


def _cost_lengths(config: MCEval) -> list[int]:
    if "cost" not in config.parts:
        return []
    return [length for length in COST_LENGTHS if not config.quick or length <= QUICK_COST]


def _text(config: MCEval, loaded: LoadedMemory, evaluation: SessionEval, budget: Budget, left_out: dict[str, str]) -> list[TextPoint]:
    horizon = max(config.judged)
    lengths = [multiple * budget.most for multiple in config.multiples]
    documents = _documents(config, loaded, evaluation.examples * len(lengths), lengths[-1] + horizon)
    longest = max(map(len, documents), default=0)
    if short := [length for length in lengths if length + horizon > longest]:
        left_out["text"] = (
            f"no document has the {short[0] + horizon:,} tokens that {len(short)} of the lengths need; the longest has {longest:,}"
        )
        print(f"text: {left_out['text']}")
    return measure_text(evaluation, documents, lengths, horizon, print)


def _documents(config: MCEval, loaded: LoadedMemory, count: int, most: int) -> list[Tensor]:
    """The first `most` tokens of the `count` longest documents, the longest first."""
    if config.documents is not None:
        source = open_source(config.documents, config.text_column)
        if lost := source.left_out.line:
            print(lost)
        texts = source.whole_documents()
        documents = sorted((torch.tensor(loaded.tokenizer.encode(text, bos=True)) for text in texts), key=len, reverse=True)
        return [document[:most] for document in documents[:count]]
    shards = _shards(loaded)
    spans = [(int(b - a), number, int(a)) for number, s in enumerate(shards.shards) for a, b in zip(s.offsets, s.offsets[1:], strict=False)]
    longest = sorted(spans, reverse=True)[:count]
    return [torch.from_numpy(shards.shards[number].tokens[at : at + min(size, most)].astype("int64")) for size, number, at in longest]


def _shards(loaded: LoadedMemory) -> TokenCache:
    """Validation tokens of base training."""
    recipe = loaded.meta.get("recipe")
    if recipe is None:
        raise UserError(
            f"the checkpoint of {loaded.meta['tag']} does not name its training data; give --documents, and --suite without cost"
        )
    source = fit_splits(open_recorded(recipe["data"]), loaded.tokenizer, loaded.memory.model.config.max_seq_len)
    return open_tokens(source, loaded.tokenizer, "val")


def _recall(config: MCEval, examiner: Examiner, budget: Budget, left_out: dict[str, str]) -> list[Prediction]:
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


def _cost(config: MCEval, loaded: LoadedMemory, stage: Stage) -> list[dict[str, Any]]:
    """Cost of histories made of the validation text, repeated."""
    text = torch.cat([torch.from_numpy(shard.tokens.astype("int64")) for shard in _shards(loaded).shards])

    def tokens(begin: int, end: int) -> Tensor:
        return text[torch.arange(begin, end) % len(text)]

    source = MemorySource(stage, loaded.meta["tag"], loaded.meta["step"], config.device_type)
    lengths = _cost_lengths(config)
    with tempfile.TemporaryDirectory(prefix="mc-eval-", dir=ensure_dir(base_dir())) as folder:
        rows = measure_cost(loaded.memory, config.session, tokens, lengths, TREES, Path(folder), say=print)
        for row in rows:
            wanted = row["tokens"] >= REFERENCE and not (config.quick and REFERENCE < row["tokens"] < lengths[-1])
            row["peak_mib"] = peak_of(source, config.session, row["tree"], row["tokens"], Path(folder)) if wanted else None
    return rows


def _losses(points: Sequence[TextPoint]) -> list[dict[str, Any]]:
    return [
        {"document": point.document, "tokens": point.length, "condition": name, "losses": [round(loss, 5) for loss in losses.tolist()]}
        for point in points
        for name, losses in point.losses.items()
    ]


def _print(text: Sequence[dict], suites: Sequence[dict], cost: Sequence[dict], criteria: Sequence[Criterion]) -> None:
    for rows in (text, suites, cost):
        if rows:
            numbers = [i for i, value in enumerate(rows[0].values()) if not isinstance(value, str)]
            print(markdown.table([markdown.label(name) for name in rows[0]], [list(row.values()) for row in rows], right=numbers))
    for criterion in criteria:
        print(criterion)


if __name__ == "__main__":
    run(main)
