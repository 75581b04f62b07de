"""Sends a test event to the telemetry collector and prints the result."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mc.telemetry.collector import ENDPOINTS, INSECURE, Collector, endpoint_is_set, find_collector
from mc.telemetry.provider import missing_packages
from mc.telemetry.schema import PREFIX
from nanochat.common import printable
from nanochat.flags import flag, parse, run
from nanochat.redaction import redact

if TYPE_CHECKING:
    from mc.telemetry.otlp import Outcome

SAID_CHARACTERS = 200


@dataclass
class Preflight:
    """Send a test event to the telemetry collector and print the result; the exit code is 0 only if it was accepted."""

    mc_telemetry_protocol: Literal["auto", "http", "grpc"] = flag("auto", "protocol; auto = OTEL_EXPORTER_OTLP_PROTOCOL, else http")
    timeout_seconds: float = flag(10.0, "timeout of the request", unit="seconds")

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= 600:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; it must be above 0, and at most 600")


def main(argv: Sequence[str] | None = None) -> int:
    """Sends the event and returns the exit code."""
    config = parse(Preflight, argv)
    collector = find_collector(os.environ, config.mc_telemetry_protocol)
    source = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    print(
        f"collector: {collector.describe()}, {f'from {source}' if source else 'the default: ' + ' and '.join(ENDPOINTS) + ' are not set'}"
    )
    try:
        outcome, seconds = send_test(collector, config.timeout_seconds)
    except ImportError as error:
        print(missing_packages(error), file=sys.stderr)
        return 1
    if outcome.said:
        said = redact(" ".join(outcome.said.split()))[:SAID_CHARACTERS]
        print(f"in detail: {printable(said)}")
    if outcome.accepted and not outcome.rejected:
        on = "" if endpoint_is_set(os.environ) else "; runs with --mc send to it with --mc-telemetry otlp"
        print(f"accepted in {seconds * 1e3:,.0f} ms: a trace of one span mc_preflight{on}")
        return 0
    print(f"error: {outcome.reason}{hint(collector, outcome)}", file=sys.stderr)
    return 1


def send_test(collector: Collector, timeout_seconds: float) -> tuple[Outcome, float]:
    """Outcome of a request with one event, and its duration in seconds."""
    from opentelemetry.sdk.resources import Resource

    from mc.telemetry.otlp import Sender, to_span

    now, begin = time.time_ns(), time.perf_counter()
    attributes = {f"{PREFIX}dropped_events": 0, f"{PREFIX}redacted_values": 0}
    span = to_span(Resource({"service.name": "megacontext-preflight"}), f"preflight {now}", "mc_preflight", now, now, attributes)
    with closing(Sender(collector, timeout_seconds, retries=False)) as sender:
        return sender.send([span]), time.perf_counter() - begin


def hint(collector: Collector, outcome: Outcome) -> str:
    """Advice after a failure."""
    other = {"http": "4317", "grpc": "4318"}[collector.protocol]
    if collector.address.endswith(f":{other}"):
        return f"; port {other} is most often for {'grpc' if collector.protocol == 'http' else 'http'}: see --mc-telemetry-protocol"
    if outcome.reason.startswith("TLS failed"):
        return (
            f"; does the collector have TLS? http:// is without it ({INSECURE}=1 allows that), OTEL_EXPORTER_OTLP_CERTIFICATE names its CA"
        )
    if outcome.reason.startswith("no connection"):
        return "; is the collector running, and reachable from here?"
    if "40" in outcome.reason or "UNAUTHENTICATED" in outcome.reason or "PERMISSION_DENIED" in outcome.reason:
        return "; credentials go into OTEL_EXPORTER_OTLP_HEADERS, as authorization=Bearer%20…"
    return ""


if __name__ == "__main__":
    run(main)
