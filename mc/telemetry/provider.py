"""Events of a memory at work, to an OpenTelemetry collector or to nobody. What events may say is in `mc.telemetry.schema`.

Nothing is sent unless the user has asked for it: with `--mc-telemetry otlp`, or by naming a collector in a variable (see
`mc.telemetry.collector`). There is no way to send text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from mc.telemetry.collector import Collector, endpoint_is_set, find_collector
from mc.telemetry.schema import TelemetryEvent, schema
from nanochat.flags import flag, flat_values

__all__ = ["NoOpTelemetryProvider", "TelemetryEvent", "TelemetryFlags", "TelemetryProvider", "open_telemetry", "schema"]


class TelemetryProvider(Protocol):
    """Where events go. `log_event` never waits and never fails for what lies outside this process; `close` takes at most 2 s."""

    def log_event(self, event: TelemetryEvent) -> None:
        """Logs an event. What the schema does not allow is left out; a type it does not have raises `ValueError`."""

    def close(self) -> None:
        """Sends what is left, as far as it can; may be called twice."""


class NoOpTelemetryProvider:
    """Events go nowhere."""

    def log_event(self, event: TelemetryEvent) -> None:
        """See `TelemetryProvider`."""

    def close(self) -> None:
        """See `TelemetryProvider`."""


@dataclass
class TelemetryFlags:
    """Whether and how events of the memory are sent."""

    mc_telemetry: Literal["auto", "otlp", "off"] = flag(
        "auto",
        "send figures of the memory to an OpenTelemetry collector; auto = where MC_OTEL_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT names one",
    )
    mc_telemetry_protocol: Literal["auto", "http", "grpc"] = flag(
        "auto", "how to reach it; auto = as OTEL_EXPORTER_OTLP_PROTOCOL says, else http"
    )

    def __post_init__(self) -> None:
        if self.mc_telemetry == "off" and self.mc_telemetry_protocol != "auto":
            raise ValueError("mc_telemetry_protocol has no effect with mc_telemetry off; leave one of them out")

    def check_unused(self) -> None:
        """Raises `ValueError` naming a flag that is given though there is no memory."""
        for name, value in flat_values(TelemetryFlags()).items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} has no effect without --mc; add --mc or leave it out")

    def collector(self) -> Collector | None:
        """Where events go; None = nowhere. Raises `UserError` where a variable is wrong."""
        if self.mc_telemetry == "off" or (self.mc_telemetry == "auto" and not endpoint_is_set(os.environ)):
            return None
        return find_collector(os.environ, self.mc_telemetry_protocol)


def open_telemetry(
    flags: TelemetryFlags, service_name: str = "megacontext-train", say: Callable[[str], None] | None = None, rank: int = 0
) -> TelemetryProvider:
    """What sends the events of this process, the one of `rank`: of several, the first alone does.

    `say` is told once, at the end, what was not sent; by default stderr is. Raises `UserError` where a variable is wrong.
    """
    say = say or _to_stderr
    collector = flags.collector()
    if collector is None or rank > 0:
        return NoOpTelemetryProvider()
    try:
        from mc.telemetry.exporter import OpenTelemetryProvider

        return OpenTelemetryProvider(service_name, collector, say)
    except ImportError as error:
        say(missing_packages(error))
        return NoOpTelemetryProvider()


def missing_packages(error: ImportError) -> str:
    """One line for people."""
    what = (error.name or str(error)).partition(".")[0]
    return f"warning: no telemetry is sent: Python package {what} is missing; ./mc_setup installs it, or pip install -e '.[otel]'"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
