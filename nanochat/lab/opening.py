"""How a cycle is begun and taken up again: what is locked must be what is asked for, and what this machine and checkout are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from nanochat.common import UserError, ensure_dir
from nanochat.lab.code_version import changed_files
from nanochat.lab.cycle import LOCK_FILE, Cycle, Surroundings, lab_folder, open_cycle
from nanochat.lab.profiles import PROFILES, Profile

Say = Callable[[str], None]


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
