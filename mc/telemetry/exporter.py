"""Telemetry exporter: OpenTelemetry's batch processor sends events in its own thread, so that logging never waits for the network.

At most `QUEUE` events wait for the next request. A batch stays until the collector takes or refuses it; events that come while the
queue is full are dropped and counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from mc.telemetry.collector import Collector, find_collector
from mc.telemetry.otlp import Sender, to_span
from mc.telemetry.schema import EVENTS, PREFIX, TelemetryEvent, allowed

QUEUE = 2048  # events
BATCH = 128  # events of a request
GATHER_SECONDS = 1.0  # between two requests
SEND_SECONDS = 5.0  # timeout of a request with its retries, between which the SDK pauses for about 1 and 2 s
PAUSE_SECONDS = 10.0  # before a batch is tried again for as long
CLOSE_SECONDS = 1.5  # for sending what is left at the end


class OpenTelemetryProvider(SpanExporter):
    """A `mc.telemetry.provider.TelemetryProvider` that sends to `collector`, by default the one that the environment names.

    Calls `say` once, at the end, if events were not sent. Any thread may log. Raises `UserError` if the environment is invalid,
    `ImportError` if the packages for the collector's protocol are missing.
    """

    def __init__(
        self, service_name: str = "megacontext-train", collector: Collector | None = None, say: Callable[[str], None] = print
    ) -> None:
        self.collector = collector or find_collector(os.environ)
        self.sent = self.dropped = self.redacted = 0
        self._say = say
        self._resource = Resource({"service.name": service_name})  # without what the SDK would add about the machine
        self._lock = threading.Lock()  # of the counts
        self._logged = self._queued = 0
        self._trouble = ""  # reason of the newest failure
        self._closing, self._closed = threading.Event(), False
        self._sender = Sender(self.collector, SEND_SECONDS)
        self._processor = BatchSpanProcessor(self, QUEUE, GATHER_SECONDS * 1e3, BATCH)

    def log_event(self, event: TelemetryEvent) -> None:
        """See `TelemetryProvider`. Takes microseconds, whatever the collector does."""
        payload, left_out = allowed(event.event_type, event.payload)
        now = time.time_ns()
        begin = max(0, now - round(payload.get(EVENTS[event.event_type].lasts, 0) * 1e6))
        with self._lock:
            self._logged, self.redacted = self._logged + 1, self.redacted + left_out
            if self._queued >= QUEUE or self._closing.is_set():
                self.dropped += 1
                return
            self._queued += 1
            attributes = {PREFIX + key: value for key, value in payload.items()}
            attributes |= {f"{PREFIX}dropped_events": self.dropped, f"{PREFIX}redacted_values": self.redacted}
            self._processor.on_end(to_span(self._resource, event.session_id, event.event_type, begin, now, attributes))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch: the processor calls it in its thread, which it holds up until the collector takes or refuses the batch."""
        with self._lock:
            self._queued -= len(spans)
        outcome = self._sender.send(spans)
        while outcome.again and not self._closing.is_set():
            self._trouble = outcome.reason
            self._closing.wait(PAUSE_SECONDS)
            outcome = self._sender.send(spans)
        lost = min(outcome.rejected, len(spans)) if outcome.accepted else len(spans)
        with self._lock:
            if lost:
                self._trouble = outcome.reason or self._trouble or "not sent"
            if not self._closed:
                self.sent, self.dropped = self.sent + len(spans) - lost, self.dropped + lost
        return SpanExportResult.SUCCESS if outcome.accepted else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Closes the connection; the processor calls it at the end."""
        self._sender.close()

    def close(self) -> None:
        """See `TelemetryProvider`. Sends what is left if that takes no longer than `CLOSE_SECONDS`."""
        if self._closing.is_set():
            return
        self._sender.retries = False
        with self._lock:  # events logged before are in the queue, later ones are dropped
            self._closing.set()
        # In a thread, because the processor waits for half a minute; a daemon, which must not keep the process if it hangs.
        ending = threading.Thread(target=self._processor.shutdown, name="telemetry", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)
        with self._lock:
            if ending.is_alive():
                self._trouble = self._trouble or "no answer"
            self._closed, self.dropped = True, self._logged - self.sent
        if ending.is_alive():
            self._sender.close()
        if report := self._report():
            self._say(report)

    def _report(self) -> str:
        parts = []
        if self.dropped:
            why = f" ({self._trouble})" if self._trouble else " (logged faster than they could be sent)"
            parts.append(f"{self.dropped:,} of {self.sent + self.dropped:,} events were dropped{why}")
        if self.redacted:
            parts.append(f"{self.redacted:,} values were left out because the schema does not allow them")
        return f"telemetry to {self.collector.describe()}: {'; '.join(parts)}" if parts else ""
