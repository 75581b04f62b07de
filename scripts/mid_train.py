"""Midtraining: teaches a base model the chat format, tool use and multiple choice."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat import flags
from scripts.shared.fine_tune import FineTune, fine_tune


@dataclass
class MidTrain(FineTune):
    """Train a base model on conversations, so that it knows turns, tools and multiple choice."""


def main(argv: list[str] | None = None) -> int:
    """Trains, or continues training, and returns the exit code."""
    return fine_tune(flags.parse(MidTrain, argv), "mid")


if __name__ == "__main__":
    flags.run(main)
