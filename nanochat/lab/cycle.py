"""A cycle of experiments: a folder, and what is locked for all of them before the first comparison.

`lab/<cycle>/` in the base folder holds lab.json (profile, target, seeds, code, hardware, variance of the baseline),
results.csv, runs/ (metrics and output of each run), decisions/ and report/.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nanochat.common import UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.lab.profiles import PROFILES, Flags, Profile, resolve
from nanochat.lab.results import Results
from nanochat.lab.surroundings import Surroundings, changed_files

BASELINE = "baseline"
LOCK_FILE = "lab.json"
_LOCKED = ("metric", "threshold", "jobs", "created", "variance")  # fields that lab.json has as they are
Say = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """A configuration that runs at several seeds. `flags` are those of base_train without the seed.

    `knobs` and `budget` record its origin; two experiments that differ in these alone are equal.
    """

    name: str
    flags: Flags
    budget_seconds: float | None = None  # if the steps follow from a time: `flags` then lacks them
    knobs: Mapping[str, Any] = field(default_factory=dict)
    budget: str = "tokens"


@dataclass(frozen=True)
class BaselineOptions:
    """Options of a new cycle; 0, empty and None leave them to the profile."""

    seeds: int = 0
    metric: str = ""
    threshold: float | None = None
    jobs: int = 0


@dataclass
class Cycle:
    """Folder of a cycle and what is locked in it. `defaults` are the flags of base_train."""

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
        """Name of the folder."""
        return self.folder.name

    @property
    def results(self) -> Results:
        """Rows of results.csv."""
        return Results(self.folder / "results.csv")

    @property
    def baseline(self) -> Experiment:
        """The profile without knobs."""
        return Experiment(BASELINE, dict(self.profile.flags))

    def experiment(self, name: str, knobs: Mapping[str, Any], base: Flags | None = None) -> Experiment:
        """The profile, or the flags `base`, with `knobs`. Raises `ValueError` if they are impossible."""
        try:
            return Experiment(name, resolve(self.profile.flags if base is None else base, knobs, self.defaults), knobs=knobs)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def hash(self, experiment: Experiment) -> str:
        """Config hash: equal for equal flags, code and tokenizer, whatever the name and whether defaults are spelled out."""
        flags = {name: type(self.defaults[name])(value) for name, value in experiment.flags.items()}
        return _digest(
            {
                "flags": {name: value for name, value in flags.items() if value != self.defaults[name]},
                "budget_seconds": experiment.budget_seconds,
                "code": _digest(dict(self.surroundings.code)),
                "tokenizer": self.surroundings.tokenizer,
            }
        )

    def run_folder(self, config: Experiment | str, seed: int) -> Path:
        """Folder of a run's metrics and output, by experiment or config hash."""
        return self.folder / "runs" / f"{config if isinstance(config, str) else self.hash(config)}-s{seed}"

    def saved(self, name: str) -> dict[str, Any]:
        """Contents of `name`.json in the folder; empty if it does not exist."""
        path = self.folder / f"{name}.json"
        return read_json(path) if path.exists() else {}

    def save(self) -> None:
        """Writes lab.json."""
        write_json(
            ensure_dir(self.folder) / LOCK_FILE,
            {
                "profile": self.profile.record(),
                "seeds": list(self.seeds),
                "surroundings": {**vars(self.surroundings), "code": dict(self.surroundings.code)},
                **{name: getattr(self, name) for name in _LOCKED},
            },
        )

    def check(self, now: Surroundings) -> None:
        """Raises `UserError` if the code, tokenizer or machine differ from the baseline's."""
        again = f"start another cycle (--cycle NAME) with its own baseline, or restore what the baseline of {self.name} ran on"
        then = self.surroundings
        if then.tokenizer != now.tokenizer:
            raise UserError(f"the tokenizer is not that of the baseline in {self.folder}; {again}")
        if then.hardware != now.hardware:
            raise UserError(f"the baseline in {self.folder} ran on {then.hardware}, this is {now.hardware}; {again}")
        if changed := changed_files(then.code, now.code):
            names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise UserError(
                f"the training code has changed since the baseline ({names}); {again}, or give --same-code if the change cannot matter"
            )

    def require_threshold(self) -> float:
        """The target. Raises `UserError` before the baseline has run."""
        if self.threshold is None:
            raise UserError(f"{self.folder} has no finished baseline; run: python -m scripts.lab baseline --cycle {self.name}")
        return self.threshold


def lab_folder() -> Path:
    """Folder of all cycles."""
    return base_dir() / "lab"


def cycle_names() -> list[str]:
    """The cycles that have a lab.json, the oldest first."""
    found = [path.parent for path in lab_folder().glob(f"*/{LOCK_FILE}")]
    return [folder.name for folder in sorted(found, key=lambda f: (read_json(f / LOCK_FILE).get("created", ""), f.name))]


def open_cycle(name: str, defaults: Mapping[str, Any]) -> Cycle:
    """The cycle as it was locked. Raises `UserError` if it does not exist or its lab.json is damaged."""
    folder = lab_folder() / name
    if not (folder / LOCK_FILE).exists():
        raise UserError(f"there is no cycle {name!r} in {lab_folder()}; run: python -m scripts.lab baseline --cycle {name} --profile …")
    saved = read_json(folder / LOCK_FILE)
    try:
        return Cycle(
            folder=folder,
            profile=Profile.from_record(saved["profile"]),
            seeds=tuple(saved["seeds"]),
            surroundings=Surroundings(**saved["surroundings"]),
            defaults=defaults,
            **{name: saved[name] for name in _LOCKED},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / LOCK_FILE} is damaged ({error}); move {folder} away") from error


def begin(name: str, profile: Profile | None, options: BaselineOptions, same_code: bool, defaults: Mapping[str, Any], say: Say) -> Cycle:
    """Creates the cycle `name` with its lab.json, or continues it; a continued one may only get more seeds.

    Raises `UserError` if other options are locked, or the tokenizer is not the profile's.
    """
    if (lab_folder() / name / LOCK_FILE).exists():
        cycle = reopen(name, profile, same_code, defaults, say)
        for option in ("metric", "jobs", "threshold"):
            value, locked = getattr(options, option), getattr(cycle, option)
            if value and locked is not None and value != locked:
                raise UserError(f"{option} of cycle {name} is locked at {locked}, not {value}; begin another cycle with --cycle NAME")
        if options.seeds and options.seeds < len(cycle.seeds):
            raise UserError(f"cycle {name} has {len(cycle.seeds)} seeds; they can become more, not fewer")
        cycle.seeds = _seeds(max(options.seeds, len(cycle.seeds)))
        cycle.save()
        return cycle
    if profile is None:
        raise UserError(f"cycle {name} is new and needs a profile: --profile {', '.join(PROFILES)} or a YAML file")
    jobs = options.jobs or profile.jobs
    surroundings = Surroundings.here(jobs)
    if surroundings.vocab_size != profile.vocab_size:
        raise UserError(
            f"the tokenizer has {surroundings.vocab_size} entries and profile {profile.name} needs {profile.vocab_size}; "
            f"run python -m scripts.tok_train --vocab-size {profile.vocab_size} in a base folder of its own (NANOCHAT_BASE_DIR)"
        )
    cycle = Cycle(
        lab_folder() / name,
        profile,
        options.metric or profile.metric,
        options.threshold,
        _seeds(options.seeds or profile.seeds),
        jobs,
        surroundings,
        defaults,
        datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    cycle.save()
    return cycle


def reopen(name: str, profile: Profile | None, same_code: bool, defaults: Mapping[str, Any], say: Say) -> Cycle:
    """Opens the cycle `name` for more runs. Raises `UserError` if the surroundings differ from the baseline's.

    `profile`, if given, must be the locked one. `same_code` accepts changed training code as equal to the baseline's.
    """
    cycle = open_cycle(name, defaults)
    if profile is not None and profile != cycle.profile:
        raise UserError(f"cycle {name} is locked to another profile than {profile.name} is now; begin another cycle with --cycle NAME")
    now = Surroundings.here(cycle.jobs)
    changed = changed_files(cycle.surroundings.code, now.code)
    if same_code and changed:
        say(f"the training code has changed since the baseline ({len(changed)} files); accepted as the same")
        now = dataclasses.replace(now, code=cycle.surroundings.code)
    cycle.check(now)
    cycle.surroundings = now
    return cycle


@contextmanager
def exclusive(cycle: Cycle) -> Iterator[None]:
    """Lock on a cycle's folder. Raises `UserError` if another command holds it."""
    lock = FileLock(ensure_dir(cycle.folder) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another command of the lab is running in {cycle.folder}; wait for it, or use another --cycle") from error
    try:
        yield
    finally:
        lock.release()


def _digest(value: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()[:12]


def _seeds(count: int) -> tuple[int, ...]:
    return tuple(range(1, count + 1))
