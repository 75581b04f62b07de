"""Surroundings of a run: training code, tokenizer and hardware, on which its figures depend in addition to its flags."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import ROOT
from nanochat.data.tokenizer import load_tokenizer
from nanochat.report.environment import describe_environment, source_commit

ENTRY = "scripts.base_train"
PACKAGES = ("scripts", "mc", "nanochat", "rustbpe")


@dataclass(frozen=True)
class Surroundings:
    """Files of the training code with their digests, commit, tokenizer and hardware."""

    code: Mapping[str, str]
    commit: str
    tokenizer: str
    vocab_size: int
    hardware: str

    @staticmethod
    def here(jobs: int) -> Surroundings:
        """Surroundings of this checkout, base folder and machine. Raises `UserError` if there is no tokenizer."""
        tokenizer = load_tokenizer()
        facts = describe_environment()
        hardware = f"{facts.get('GPU') or facts['CPU']}, {facts['dtype'].split()[0]}, {jobs} × {threads(jobs)} threads"
        return Surroundings(training_code(), source_commit() or "", tokenizer.fingerprint, tokenizer.vocab_size, hardware)


def threads(jobs: int) -> int:
    """Threads of each of `jobs` runs at a time."""
    return max(1, len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) // jobs)


def training_code(root: Path = ROOT, entry: str = ENTRY) -> dict[str, str]:
    """Path in the checkout → shortened SHA-256 of the file, for every module that training imports."""
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


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files in which two versions of the training code differ."""
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
