"""OTLP sender: OpenTelemetry's exporter over HTTP or gRPC, and what the collector answers, which the exporter only logs."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from mc.telemetry.collector import Collector
from mc.telemetry.schema import Value

AGAIN_STATUS = (408, 429, 502, 503, 504)  # the collector may accept the same request later
AGAIN_CODES = ("CANCELLED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE", "DATA_LOSS")
SCOPE = InstrumentationScope("megacontext")


class Outcome(NamedTuple):
    """Result of a request; of the spans of an accepted one, `rejected` were refused.

    `reason` is a message of ours, safe to print; `said` is the message of the collector or of the client library. `again`: the same
    request may succeed later.
    """

    accepted: bool
    reason: str = ""
    again: bool = False
    rejected: int = 0
    said: str = ""


Note = Callable[[Outcome], None]


class Sender:
    """Sends spans to `collector`, again and again for `timeout_seconds`, or once if not `retries`.

    One thread at a time calls `send`; `close` may be called meanwhile, and ends a pause or a request over gRPC.
    """

    def __init__(self, collector: Collector, timeout_seconds: float, retries: bool = True) -> None:
        self.retries, self._outcome = retries, Outcome(False)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # its log may hold headers
        opened = _grpc_exporter if collector.protocol == "grpc" else _http_exporter
        self._exporter = opened(collector, timeout_seconds, self._note)

    def send(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Outcome of the newest request; after `close`, one without a reason."""
        self._outcome = Outcome(False)
        self._exporter.export(spans)
        return self._outcome

    def close(self) -> None:
        """Closes the connection."""
        self._exporter.shutdown()

    def _note(self, outcome: Outcome) -> None:
        self._outcome = outcome
        if outcome.again and not self.retries:
            self._exporter.shutdown()  # nothing else keeps the exporter from retrying


def trace_id(session_id: str) -> int:
    """Trace id, 16 bytes, of all spans of a session: a hash, which does not reveal the session's id."""
    return int.from_bytes(hashlib.sha256(b"megacontext session " + session_id.encode("utf-8")).digest()[:16], "big")


def to_span(resource: Resource, session_id: str, name: str, begin: int, end: int, attributes: Mapping[str, Value]) -> ReadableSpan:
    """Span of a session; times in nanoseconds since 1970. Made without the SDK's tracer, which takes ten times as long."""
    context = SpanContext(trace_id(session_id), secrets.randbits(64), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return ReadableSpan(name, context, None, resource, attributes, start_time=begin, end_time=end, instrumentation_scope=SCOPE)


def _http_exporter(collector: Collector, timeout_seconds: float, note: Note) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    # Of the environment, only proxies: ~/.netrc and REQUESTS_CA_BUNDLE would replace the header and the authority that the user gave.
    session.trust_env, session.proxies = False, requests.utils.get_environ_proxies(collector.url)
    session.request = _noting(session.request, requests.RequestException, _answered_http, _failed_http, note)
    files = (collector.paths.get(name) for name in ("authority", "key", "certificate"))
    compression = Compression.Gzip if collector.gzip else Compression.NoCompression
    return OTLPSpanExporter(collector.url, *files, collector.headers, timeout_seconds, compression, session)


def _grpc_exporter(collector: Collector, timeout_seconds: float, note: Note) -> SpanExporter:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read at import; the outcome has the reason of a failure
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    class Exporter(OTLPSpanExporter):
        def _initialize_channel_and_stub(self) -> None:  # the SDK calls it for each new channel
            super()._initialize_channel_and_stub()
            self._client = SimpleNamespace(Export=_noting(self._client.Export, grpc.RpcError, _answered, _failed_grpc, note))

    files = (Path(collector.paths[name]).read_bytes() if name in collector.paths else None for name in ("authority", "key", "certificate"))
    credentials = grpc.ssl_channel_credentials(*files) if collector.tls else None
    compression = grpc.Compression.Gzip if collector.gzip else grpc.Compression.NoCompression
    return Exporter(collector.url, not collector.tls, credentials, dict(collector.headers), timeout_seconds, compression)


def _noting(call: Callable, errors: type[Exception], answered: Callable, failed: Callable, note: Note) -> Callable:
    """`call`, which sends a request, and notes what `answered` makes of its answer, or `failed` of its error."""

    def noting(*arguments: Any, **options: Any) -> Any:
        try:
            answer = call(*arguments, **options)
        except errors as error:
            note(failed(error))
            raise
        note(answered(answer))
        return answer

    return noting


def _answered(response: ExportTraceServiceResponse) -> Outcome:
    """Outcome of a request that the collector accepted."""
    part = response.partial_success
    reason = f"the collector rejected {part.rejected_spans:,} of the events" if part.rejected_spans else ""
    return Outcome(True, reason, rejected=part.rejected_spans, said=part.error_message)


def _answered_http(response: requests.Response) -> Outcome:
    if 200 <= response.status_code < 300:
        try:
            return _answered(ExportTraceServiceResponse.FromString(response.content))
        except DecodeError:
            return Outcome(False, "the answer is not that of an OTLP collector")
    status = f"{response.status_code} {response.reason or ''}".strip()
    return Outcome(False, f"refused with status {status}", response.status_code in AGAIN_STATUS, said=response.text)


def _failed_http(error: requests.RequestException) -> Outcome:
    reason = "timed out" if isinstance(error, requests.Timeout) else _cause(error)
    return Outcome(False, reason or "the connection ended without an answer", again=True)


def _cause(error: object) -> str:
    """Words of this error or of one that led to it; urllib3 hands them on as arguments too."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or 'no TLS there'}"
    if isinstance(error, OSError) and error.strerror:
        return f"no connection: {error.strerror}"
    causes = (error.__cause__ or error.__context__, *error.args) if isinstance(error, BaseException) else ()
    return next(filter(None, map(_cause, causes)), "")


def _failed_grpc(error: Any) -> Outcome:
    code, details = error.code().name, error.details() or ""
    if code == "DEADLINE_EXCEEDED":
        return Outcome(False, "timed out", again=True)
    if code == "UNAVAILABLE":
        tls = "ssl" in details.lower() or "certificate" in details.lower()
        return Outcome(False, "TLS failed" if tls else "no connection", again=True, said=details)
    return Outcome(False, f"refused with status {code}", code in AGAIN_CODES, said=details)
