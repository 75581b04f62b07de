"""base_train with an error in the middle of the memory: `python -m tests.helpers.broken_memory MODULE:NAME CALLS FLAGS…`.

The function or method raises at its call number CALLS, counted from 0.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from nanochat import flags
from scripts.base_train import main as train


def broken(name: str, good: Any, calls: int) -> Any:
    """`good`, which fails after so many calls."""
    left = [calls]

    def call(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError(f"injected into {name}")
        return good(*arguments, **named)

    return call


def main() -> int:
    """What base_train returns, should the error go unnoticed."""
    place, calls, *argv = sys.argv[1:]
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, name, broken(place, getattr(owner, name), int(calls)))
    return train(argv)


if __name__ == "__main__":
    flags.run(main)
