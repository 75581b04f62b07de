"""Prometheus metrics at `GET /metrics`: requests, replies, tokens, latencies, sessions. None contains a name or a text.

A server has a registry of its own. Labels have few values: the path of a route, never that of a request.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.admission import Counts
from nanochat.serve.http.errors import ApiError

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # s
TOKEN_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)  # s
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Fields of `Counts` that only grow, and those that do not.
TOTALS = {
    "requests": "requests for replies that were admitted",
    "finished": "requests that were answered to their end",
    "cancelled": "requests whose client left",
    "failed": "requests that ended with an error",
    "refused": "requests that were refused because the queue was full",
    "prompt_tokens": "tokens of prompts",
    "tokens": "tokens of replies",
}
CURRENT = {"active": "replies that are decoded", "queued": "replies that wait"}


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        every = {"registry": self.registry}
        self.http_requests = Counter("megacontext_http_requests", "HTTP requests", ["path", "status"], **every)
        self.http_seconds = Histogram(
            "megacontext_http_request_seconds", "time of an HTTP request to its last byte", ["path"], buckets=LATENCIES, **every
        )
        self._first = Histogram(
            "megacontext_time_to_first_token_seconds", "time from the request to its first token", buckets=LATENCIES, **every
        )
        self._next = Histogram(
            "megacontext_time_per_output_token_seconds", "mean time of a reply's tokens after the first", buckets=TOKEN_LATENCIES, **every
        )
        self._replies = Histogram("megacontext_reply_seconds", "time from the request to the end of a reply", buckets=LATENCIES, **every)
        self._refocuses = Histogram("megacontext_refocus_seconds", "time of a refocus during a turn", buckets=LATENCIES, **every)
        self.sessions = Gauge("megacontext_sessions", "sessions that exist", **every)

    def watch(self, counts: Callable[[], Counts]) -> None:
        """Adds the backend's counts, read at each scrape."""

        class Backend(Collector):
            def collect(self) -> Iterator[Metric]:
                now = counts()
                for name, help in TOTALS.items():
                    yield CounterMetricFamily(f"megacontext_{name}", help, getattr(now, name))
                for name, help in CURRENT.items():
                    yield GaugeMetricFamily(f"megacontext_replies_{name}", help, getattr(now, name))

        self.registry.register(Backend())

    def refocused(self, milliseconds: Iterable[float]) -> None:
        """Counts refocuses by the times that they took."""
        for each in milliseconds:
            self._refocuses.observe(each / 1e3)

    def ended(self, began: float, first: float | None, tokens: int) -> None:
        """Counts a reply of `tokens` tokens that began and had its first token at these times of `time.monotonic`, and ends now."""
        now = time.monotonic()
        self._replies.observe(now - began)
        if first is not None:
            self._first.observe(first - began)
            if tokens > 1:
                self._next.observe((now - first) / (tokens - 1))


class Measured:
    """ASGI middleware around `app` that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), "none"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.http_requests.labels(path, status).inc()
            self._metrics.http_seconds.labels(path).observe(time.monotonic() - began)


def add_metrics(app: FastAPI, metrics: Metrics, count_sessions: Callable[[], Awaitable[int]] | None) -> None:
    """Adds `/metrics`. `count_sessions` is asked at each scrape, None if there are no sessions; it may raise `ApiError`."""

    @app.get("/metrics")
    async def scrape() -> Response:
        if count_sessions is not None:
            try:
                metrics.sessions.set(await count_sessions())
            except ApiError:  # the model has stopped or is busy, which the other metrics show
                metrics.sessions.set(math.nan)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE)
