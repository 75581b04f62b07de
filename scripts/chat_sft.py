"""Supervised fine-tuning of a midtrained (or base) model on chat replies."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat import flags
from scripts.shared.fine_tune import FineTune, fine_tune


@dataclass
class ChatSft(FineTune):
    """Fine-tune a midtrained (or base) model on the replies of conversations."""


def main(argv: list[str] | None = None) -> int:
    """Trains, or continues training, and returns the exit code."""
    return fine_tune(flags.parse(ChatSft, argv), "sft")


if __name__ == "__main__":
    flags.run(main)
