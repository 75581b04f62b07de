"""A cycle of experiments: a folder, and what is locked for all of them before the first is compared.

`lab/<cycle>/` under the base folder holds lab.json (profile, target, seeds, code, hardware, variance of the baseline),
results.csv, runs/ (metrics and output of each run), decisions/ and report/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.common import UserError, base_dir, ensure_dir, read_json, write_json
from nanochat.data.tokenizer import load_tokenizer
from nanochat.lab.code_version import changed_files, digest, training_code
from nanochat.lab.knobs import resolve
from nanochat.lab.profiles import Flags, Profile
from nanochat.lab.results import Results
from nanochat.report.environment import describe_environment, source_commit

BASELINE = "baseline"
LOCK_FILE = "lab.json"


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
