"""Supervised fine-tuning: a midtrained model learns to answer as it is asked to."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat import flags
from nanochat.tasks.mixtures import sft_mixtures
from scripts.shared.fine_tune import FineTune, fine_tune


@dataclass
class ChatSft(FineTune):
    """Fine-tune a midtrained (or base) model on the replies it shall give."""


def main(argv: list[str] | None = None) -> int:
    """Trains, or goes on training, and returns the exit code."""
    return fine_tune(flags.parse(ChatSft, argv), "sft", sft_mixtures)


if __name__ == "__main__":
    flags.run(main)
