"""Telemetry exporter: a background thread sends events to an OpenTelemetry collector, so that logging never waits for the network.

Events wait in a queue of at most `QUEUE` for the next request. While the collector does not answer, a request is retried with
growing pauses; events that come while the queue is full are dropped and counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mc.telemetry.collector import Collector, find_collector
from mc.telemetry.otlp import Moment, Outcome, open_sender, to_request
from mc.telemetry.schema import EVENTS, PREFIX, TelemetryEvent, Value, allowed

QUEUE = 2048  # events
BATCH = 128  # events of a request
GATHER_SECONDS = 1.0  # between two requests
SEND_SECONDS = 5.0  # timeout of a request
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds after the first, second, … consecutive failure
CLOSE_SECONDS = 1.5  # for sending what is left at the end


class _Waiting(NamedTuple):
    """Event in the queue; its payload holds only values that may be sent."""

    session_id: str
    event_type: str
    at: int  # nanoseconds since 1970
    payload: dict[str, Value]


class OpenTelemetryProvider:
    """A `mc.telemetry.provider.TelemetryProvider` that sends to `collector`, by default the one that the environment names.

    Calls `say` once, at the end, if events were not sent. Any thread may log. Raises `UserError` if the environment is invalid,
    `ImportError` if the packages for the collector's protocol are missing.
    """

    def __init__(
        self, service_name: str = "megacontext-train", collector: Collector | None = None, say: Callable[[str], None] = print
    ) -> None:
        self.collector = collector or find_collector(os.environ)
        self.sent = self.dropped = self.redacted = 0
        self._service_name, self._say = service_name, say
        self._sender = open_sender(self.collector)
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()  # of the queue and the counts
        self._in_request = 0  # events taken from the queue and neither sent nor dropped yet
        self._trouble = ""  # reason of the newest failure
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)  # must not keep the process if it hangs
        self._thread.start()

    def log_event(self, event: TelemetryEvent) -> None:
        """See `TelemetryProvider`. Takes microseconds, whatever the collector does."""
        payload, left_out = allowed(event.event_type, event.payload)
        waiting = _Waiting(event.session_id, event.event_type, time.time_ns(), payload)
        with self._lock:
            self.redacted += left_out
            if len(self._queue) >= QUEUE or self._closing.is_set():
                self.dropped += 1
            else:
                self._queue.append(waiting)

    def close(self) -> None:
        """See `TelemetryProvider`. Sends what is left if that takes no longer than `CLOSE_SECONDS`."""
        if self._closing.is_set():
            return
        self._deadline = time.monotonic() + CLOSE_SECONDS
        with self._lock:  # events logged before are in the queue, later ones are dropped
            self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        with self._lock:
            if self._thread.is_alive():
                self._trouble = self._trouble or "no answer"
            self.dropped += len(self._queue) + self._in_request
            self._queue.clear()
            self._in_request = 0
        if not self._thread.is_alive() or self.collector.protocol == "grpc":
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

    def _work(self) -> None:
        failures, batch = 0, []
        while True:
            self._closing.wait(PAUSES[min(failures, len(PAUSES)) - 1] if failures else GATHER_SECONDS)
            closing = self._closing.is_set()  # read before the queue, which gets no events afterwards
            while batch := batch or self._take():
                left = self._deadline - time.monotonic() if closing else SEND_SECONDS
                outcome = self._sender.send(self._request(batch), left) if left > 0 else Outcome(False, "no time was left")
                if outcome.again:
                    self._trouble, failures = outcome.reason, failures + 1
                    break
                failures = 0 if outcome.accepted else failures + 1
                self._count(batch, outcome)
                batch = []
            if closing:
                return

    def _take(self) -> list[_Waiting]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._in_request = len(batch)
        return batch

    def _request(self, batch: list[_Waiting]):
        common = {f"{PREFIX}dropped_events": self.dropped, f"{PREFIX}redacted_values": self.redacted}
        return to_request(self._service_name, [_moment(waiting, common) for waiting in batch])

    def _count(self, batch: list[_Waiting], outcome: Outcome) -> None:
        with self._lock:
            if not self._in_request:  # `close` has counted it as dropped
                return
            lost = min(outcome.rejected, len(batch)) if outcome.accepted else len(batch)
            self.sent, self.dropped, self._in_request = self.sent + len(batch) - lost, self.dropped + lost, 0
        if lost:
            self._trouble = outcome.reason


def _moment(waiting: _Waiting, common: dict[str, Value]) -> Moment:
    lasts = waiting.payload.get(EVENTS[waiting.event_type].lasts, 0)
    begin = waiting.at - round(lasts * 1e6)
    attributes = {PREFIX + key: value for key, value in waiting.payload.items()}
    return Moment(waiting.session_id, waiting.event_type, max(0, begin), waiting.at, attributes | common)
