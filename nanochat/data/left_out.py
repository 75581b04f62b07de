"""Files and documents that are left out, counted by reason, with the names of the first files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat.common import shown

What = Literal["file", "document"]
EMPTY, NOT_TEXT = "empty", "not UTF-8"
FIRST = 3  # files that are named


@dataclass
class Reason:
    """How many were left out for one reason, and the names of the first files, each with a hint at what is wrong."""

    count: int = 0
    first: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names with their hints."""
        return [f"{name} {hint}".rstrip() for name, hint in self.first.items()]


@dataclass
class LeftOut:
    """What was left out, by what it is and why."""

    reasons: dict[tuple[What, str], Reason] = field(default_factory=dict)

    def add(self, what: What, why: str, name: str = "", count: int = 1, hint: Callable[[], str] = str) -> None:
        """Counts what was left out, of or in the file `name`; asks for the `hint` if that is one of the first names."""
        reason = self.reasons.setdefault((what, why), Reason())
        reason.count += count
        if name and name not in reason.first and len(reason.first) < FIRST:
            reason.first[name] = hint()

    def __add__(self, other: LeftOut) -> LeftOut:
        both = LeftOut()
        for (what, why), reason in [*self.reasons.items(), *other.reasons.items()]:
            both.add(what, why, count=reason.count)
            for name in reason.names:
                both.add(what, why, name, count=0)
        return both

    def describe(self) -> list[dict[str, Any]]:
        """Plain values for reports and manifests."""
        return [{"what": what, "why": why, "count": r.count, "first": r.names} for (what, why), r in self.reasons.items()]

    @classmethod
    def of(cls, described: Iterable[Mapping[str, Any]]) -> LeftOut:
        """What `describe` described."""
        return cls({(entry["what"], entry["why"]): Reason(entry["count"], dict.fromkeys(entry["first"], "")) for entry in described})

    @property
    def line(self) -> str:
        """One line; empty if nothing was left out. `2 files left out: a.pdf, b.bin (unknown type)`."""
        parts = []
        for what in ("file", "document"):
            reasons = [(why, reason) for (of, why), reason in self.reasons.items() if of == what]
            if reasons:
                count = sum(reason.count for _, reason in reasons)
                named = "; ".join(f"{_names(what, reason)} ({why})" for why, reason in reasons)
                parts.append(f"{count:,} {what}{'s' * (count != 1)} left out: {named}")
        return "; ".join(parts)


def _names(what: What, reason: Reason) -> str:
    names = ", ".join(map(shown, reason.names))
    if what == "document":
        return f"{reason.count:,} in {names}{', …' * (len(reason.first) == FIRST)}" if names else f"{reason.count:,}"
    more = reason.count - len(reason.first)
    return f"{names} and {more:,} more" if more else names
