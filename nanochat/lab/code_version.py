"""Which code a run trains with: digests of base_train and of all it imports from this project, directly or not.

Runs of one cycle are only compared where these are equal; a change of the docs or of the lab itself does not matter.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.common import ROOT

ENTRY = "scripts.base_train"
PACKAGES = ("scripts", "mc", "nanochat", "rustbpe")


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
