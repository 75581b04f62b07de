"""A cycle of experiments: a folder, and what is locked for all of them before the first is compared.

`lab/<cycle>/` under the base folder holds lab.json (profile, target, seeds, code, hardware, variance of the baseline),
results.csv, runs/ (metrics and output of each run), decisions/ and report/.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanochat.common import ROOT, UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.data.tokenizer import load_tokenizer
from nanochat.lab.profiles import PROFILES, Flags, Profile, resolve
from nanochat.lab.results import Results
from nanochat.report.environment import describe_environment, source_commit

BASELINE = "baseline"
LOCK_FILE = "lab.json"
ENTRY = "scripts.base_train"
PACKAGES = ("scripts", "mc", "nanochat", "rustbpe")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Surroundings:
    """What a run's figures depend on beside its flags."""

    code: Mapping[str, str]
    commit: str
    tokenizer: str
    vocab_size: int
    hardware: str

    @staticmethod
    def here(jobs: int) -> Surroundings:
        """Those of this checkout, base folder and machine. Raises `UserError` where there is no tokenizer."""
        tokenizer = load_tokenizer()
        facts = describe_environment()
        machine = f"{facts.get('GPU') or facts['CPU']}, {facts['dtype'].split()[0]}"
        return Surroundings(
            training_code(),
            source_commit() or "",
            tokenizer.fingerprint,
            tokenizer.vocab_size,
            f"{machine}, {jobs} × {threads(jobs)} threads",
        )


@dataclass(frozen=True)
class Experiment:
    """A configuration that runs at several seeds. `flags` are those of base_train without the seed.

    `knobs` and `budget` say how they came about; they do not tell two experiments apart.
    """

    name: str
    flags: Flags
    budget_seconds: float | None = None  # where the steps follow from a time: `flags` then lacks them
    knobs: Mapping[str, Any] = field(default_factory=dict)
    budget: str = "tokens"


@dataclass
class Cycle:
    """The folder of a cycle, with what is locked in it. `defaults` are the flags of base_train."""

    folder: Path
    profile: Profile
    metric: str
    threshold: float | None  # None until the baseline has set it
    seeds: tuple[int, ...]
    jobs: int
    surroundings: Surroundings
    defaults: Mapping[str, Any]
    created: str
    variance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def results(self) -> Results:
        """The rows."""
        return Results(self.folder / "results.csv")

    @property
    def baseline(self) -> Experiment:
        """The profile as it is."""
        return Experiment(BASELINE, dict(self.profile.flags))

    def experiment(self, name: str, knobs: Mapping[str, Any], base: Flags | None = None) -> Experiment:
        """The profile, or the flags `base`, with `knobs`. Raises `ValueError` where they cannot be had."""
        try:
            return Experiment(name, resolve(self.profile.flags if base is None else base, knobs, self.defaults), knobs=knobs)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def hash(self, experiment: Experiment) -> str:
        """The config hash: equal for equal flags, code and tokenizer, whatever the experiment is called and its defaults are spelled."""
        flags = {name: type(self.defaults[name])(value) for name, value in experiment.flags.items()}
        return digest(
            {
                "flags": {name: value for name, value in flags.items() if value != self.defaults[name]},
                "budget_seconds": experiment.budget_seconds,
                "code": digest(dict(self.surroundings.code)),
                "tokenizer": self.surroundings.tokenizer,
            }
        )

    def run_folder(self, experiment: Experiment, seed: int) -> Path:
        """Where a run keeps its metrics and output."""
        return self.folder / "runs" / f"{self.hash(experiment)}-s{seed}"

    def save(self) -> None:
        """Writes lab.json."""
        write_json(
            ensure_dir(self.folder) / LOCK_FILE,
            {
                "profile": self.profile.record(),
                "metric": self.metric,
                "threshold": self.threshold,
                "seeds": list(self.seeds),
                "jobs": self.jobs,
                "created": self.created,
                "surroundings": {**vars(self.surroundings), "code": dict(self.surroundings.code)},
                "variance": self.variance,
            },
        )

    def check(self, now: Surroundings) -> None:
        """Raises `UserError` where this checkout, tokenizer or machine is not the one that the baseline ran on."""
        again = f"start another cycle (--cycle NAME) with its own baseline, or bring back what the baseline of {self.name} ran on"
        then = self.surroundings
        if then.tokenizer != now.tokenizer:
            raise UserError(f"the tokenizer is not that of the baseline in {self.folder}; {again}")
        if then.hardware != now.hardware:
            raise UserError(f"the baseline in {self.folder} ran on {then.hardware}, this is {now.hardware}; {again}")
        if changed := changed_files(then.code, now.code):
            names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise UserError(
                f"the training code has changed since the baseline ({names}); {again}, or say --same-code if that cannot matter"
            )

    def require_threshold(self) -> float:
        """The target. Raises `UserError` before the baseline has run."""
        if self.threshold is None:
            raise UserError(f"{self.folder} has no finished baseline; run: python -m scripts.lab baseline --cycle {self.name}")
        return self.threshold


def lab_folder() -> Path:
    """Of all cycles."""
    return base_dir() / "lab"


def cycle_names() -> list[str]:
    """The cycles that have a lab.json, the oldest first."""
    found = [path.parent for path in lab_folder().glob(f"*/{LOCK_FILE}")]
    return [folder.name for folder in sorted(found, key=lambda f: (read_json(f / LOCK_FILE).get("created", ""), f.name))]


def open_cycle(name: str, defaults: Mapping[str, Any]) -> Cycle:
    """The cycle as it was locked. Raises `UserError` where there is none, or its lab.json is damaged."""
    folder = lab_folder() / name
    if not (folder / LOCK_FILE).exists():
        raise UserError(f"there is no cycle {name!r} in {lab_folder()}; run: python -m scripts.lab baseline --cycle {name} --profile …")
    saved = read_json(folder / LOCK_FILE)
    try:
        return Cycle(
            folder,
            Profile.from_record(saved["profile"]),
            saved["metric"],
            saved["threshold"],
            tuple(saved["seeds"]),
            saved["jobs"],
            Surroundings(**saved["surroundings"]),
            defaults,
            saved["created"],
            saved["variance"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / LOCK_FILE} is damaged ({error}); move {folder} away") from error


def threads(jobs: int) -> int:
    """Threads of each of `jobs` runs at a time."""
    return max(1, len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) // jobs)


def training_code(root: Path = ROOT, entry: str = ENTRY) -> dict[str, str]:
    """Path in the checkout → SHA-256 of the file, shortened, for every module that training imports."""
    found: dict[str, str] = {}
    todo = [entry]
    while todo:
        path = _file(root, todo.pop())
        if path is None or (name := str(path.relative_to(root))) in found:
            continue
        text = path.read_bytes()
        found[name] = hashlib.sha256(text).hexdigest()[:16]
        todo += _imports(text)
    return dict(sorted(found.items()))


def digest(value: Any) -> str:
    """A short name for a JSON value: 12 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()[:12]


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files in which two versions differ."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _file(root: Path, module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    stem = root.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _imports(text: bytes) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@dataclass(frozen=True)
class Asked:
    """What the baseline is asked to lock; 0, empty and None leave it to the profile."""

    seeds: int = 0
    metric: str = ""
    threshold: float | None = None
    jobs: int = 0


def begin(name: str, profile: Profile | None, asked: Asked, same_code: bool, defaults: Mapping[str, Any], say: Say) -> Cycle:
    """The cycle `name`, new or continued, with its lab.json written. A continued one may get more seeds, and nothing else.

    Raises `UserError` where something else is locked, or the tokenizer is not the profile's.
    """
    folder = lab_folder() / name
    if (folder / LOCK_FILE).exists():
        cycle = reopen(name, profile, same_code, defaults, say)
        for what in ("metric", "jobs", "threshold"):
            value, locked = getattr(asked, what), getattr(cycle, what)
            if value and locked is not None and value != locked:
                raise UserError(f"{what} of cycle {name} is locked at {locked}, not {value}; begin another cycle with --cycle NAME")
        if asked.seeds and asked.seeds < len(cycle.seeds):
            raise UserError(f"cycle {name} has {len(cycle.seeds)} seeds; they can become more, not fewer")
        cycle.seeds = _seeds(max(asked.seeds, len(cycle.seeds)))
        cycle.save()
        return cycle
    if profile is None:
        raise UserError(f"cycle {name} is new; say which profile: --profile {', '.join(PROFILES)} or a YAML file")
    jobs = asked.jobs or profile.jobs
    surroundings = Surroundings.here(jobs)
    if surroundings.vocab_size != profile.vocab_size:
        raise UserError(
            f"the tokenizer has {surroundings.vocab_size} entries and profile {profile.name} wants {profile.vocab_size}; "
            f"run python -m scripts.tok_train --vocab-size {profile.vocab_size} in a base folder of its own (NANOCHAT_BASE_DIR)"
        )
    cycle = Cycle(
        folder,
        profile,
        asked.metric or profile.metric,
        asked.threshold,
        _seeds(asked.seeds or profile.seeds),
        jobs,
        surroundings,
        defaults,
        datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    cycle.save()
    return cycle


def reopen(name: str, profile: Profile | None, same_code: bool, defaults: Mapping[str, Any], say: Say) -> Cycle:
    """The cycle `name`, on what its baseline ran on. Raises `UserError` where that is not what is here.

    `profile`, where given, must be the one that is locked. `same_code` takes changed training code for the baseline's.
    """
    cycle = open_cycle(name, defaults)
    if profile is not None and profile != cycle.profile:
        raise UserError(f"cycle {name} is locked to another profile than {profile.name} is now; begin another cycle with --cycle NAME")
    now = Surroundings.here(cycle.jobs)
    changed = changed_files(cycle.surroundings.code, now.code)
    if same_code and changed:
        say(f"the training code has changed since the baseline ({len(changed)} files); taken for the same")
        now = dataclasses.replace(now, code=cycle.surroundings.code)
    cycle.check(now)
    cycle.surroundings = now
    return cycle


@contextmanager
def alone(cycle: Cycle) -> Iterator[None]:
    """One command at a time in a cycle's folder. Raises `UserError` where another is at work."""
    lock = FileLock(ensure_dir(cycle.folder) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another command of the lab is at work in {cycle.folder}; wait for it, or use another --cycle") from error
    try:
        yield
    finally:
        lock.release()


def _seeds(count: int) -> tuple[int, ...]:
    return tuple(range(1, count + 1))
