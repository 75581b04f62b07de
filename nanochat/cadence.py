"""Every-N-tokens triggers: runs with other batch sizes evaluate, save and log at the same points."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Fires each time the token count passes a multiple of `every_tokens`; −1 and 0 are off.

    Raises `ValueError` below −1.
    """

    every_tokens: int

    def __post_init__(self) -> None:
        if self.every_tokens < -1:
            raise ValueError(f"every_tokens is {self.every_tokens}; give a number of tokens, or -1 for off")

    def due(self, before: int, after: int) -> bool:
        """Whether a multiple of `every_tokens` lies in (before, after], the token counts around one step."""
        assert 0 <= before <= after, f"token counts run forward, not from {before} to {after}"
        return self.every_tokens > 0 and after // self.every_tokens > before // self.every_tokens


def every_steps_to_tokens(every_steps: int, tokens_per_step: int) -> int:
    """The period of a `--…-every` flag in tokens; −1 and 0 stay off.

    Raises `ValueError` for a period below −1 or a step without tokens.
    """
    if every_steps < -1:
        raise ValueError(f"a period of {every_steps} steps makes no sense; give a number of steps, or -1 for off")
    if tokens_per_step < 1:
        raise ValueError(f"tokens_per_step is {tokens_per_step}; a step has at least one token")
    return every_steps * tokens_per_step if every_steps > 0 else -1
