"""Telemetry providers: send events of the memory to an OpenTelemetry collector, or nowhere. `mc.telemetry.schema` lists the events.

Nothing is sent unless the user asks for it, with `--mc-telemetry otlp` or by naming a collector in a variable (see
`mc.telemetry.collector`). Text cannot be sent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from mc.telemetry.collector import Collector, endpoint_is_set, find_collector
from mc.telemetry.schema import TelemetryEvent
from nanochat.flags import flag, flat_values


class TelemetryProvider(Protocol):
    """Destination of events. `log_event` never waits, and no failure outside this process reaches it; `close` takes at most 2 s."""

    def log_event(self, event: TelemetryEvent) -> None:
        """Logs an event without the values that the schema does not allow. Raises `ValueError` for an unknown event type."""

    def close(self) -> None:
        """Sends what is left, if possible; may be called twice."""


class NoOpTelemetryProvider:
    """Discards events."""

    def log_event(self, event: TelemetryEvent) -> None:
        """See `TelemetryProvider`."""

    def close(self) -> None:
        """See `TelemetryProvider`."""


@dataclass
class TelemetryFlags:
    """Telemetry of the memory."""

    mc_telemetry: Literal["auto", "otlp", "off"] = flag(
        "auto",
        "send figures of the memory to an OpenTelemetry collector; auto = if MC_OTEL_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT is set",
    )
    mc_telemetry_protocol: Literal["auto", "http", "grpc"] = flag(
        "auto", "protocol of the collector; auto = OTEL_EXPORTER_OTLP_PROTOCOL, else http"
    )

    def __post_init__(self) -> None:
        if self.mc_telemetry == "off" and self.mc_telemetry_protocol != "auto":
            raise ValueError("mc_telemetry_protocol has no effect with mc_telemetry off; leave one of them out")

    def check_unused(self) -> None:
        """Raises `ValueError` naming a flag that was given; for runs without a memory."""
        for name, value in flat_values(TelemetryFlags()).items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} has no effect without --mc; add --mc or leave it out")

    def collector(self) -> Collector | None:
        """Collector to send events to; None = none. Raises `UserError` if a variable is invalid."""
        if self.mc_telemetry == "off" or (self.mc_telemetry == "auto" and not endpoint_is_set(os.environ)):
            return None
        return find_collector(os.environ, self.mc_telemetry_protocol)


def open_telemetry(
    flags: TelemetryFlags, service_name: str = "megacontext-train", say: Callable[[str], None] | None = None, rank: int = 0
) -> TelemetryProvider:
    """Provider for the process of `rank`; only that of rank 0 sends events.

    `say` (default: prints to stderr) is called once, at the end, if events were not sent. Raises `UserError` if a variable is
    invalid.
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
    """Warning that telemetry is off because of this error, in one line."""
    what = (error.name or str(error)).partition(".")[0]
    return f"warning: no telemetry is sent: Python package {what} is missing; ./mc_setup installs it, or pip install -e '.[otel]'"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
