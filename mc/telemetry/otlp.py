"""OTLP client: encodes spans as OpenTelemetry's protobuf and sends one request over HTTP or gRPC, with a timeout.

The SDK's own exporters retry without a limit, hide the collector's answer, and log its URL. Specification: OTLP 1.x of
opentelemetry.io, in the protobuf of `opentelemetry-proto`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from mc.telemetry.collector import FILES, Collector
from mc.telemetry.schema import Value
from nanochat.common import UserError

AGAIN_STATUS = (408, 429, 502, 503, 504)  # the collector may accept the same request later
AGAIN_CODES = ("CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
RECONNECT_MS = 5_000  # maximum between two attempts to connect: gRPC's default of two minutes would outlast a collector's restart


class Moment(NamedTuple):
    """One span: `attributes` with their prefix, times in nanoseconds since 1970."""

    session_id: str
    name: str
    begin: int
    end: int
    attributes: Mapping[str, Value]


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


class Sender(Protocol):
    """Sends requests. One thread at a time calls `send`; `close` may be called meanwhile."""

    def send(self, request: ExportTraceServiceRequest, timeout_seconds: float) -> Outcome: ...

    def close(self) -> None: ...


def open_sender(collector: Collector) -> Sender:
    """A sender for `collector`; sends nothing yet.

    Raises `ImportError` if the packages for its protocol are missing, `UserError` if its certificate files are invalid.
    """
    return _GrpcSender(collector) if collector.protocol == "grpc" else _HttpSender(collector)


def trace_id(session_id: str) -> bytes:
    """Trace id, 16 bytes, of all spans of a session: a hash, which does not reveal the session's id."""
    return hashlib.sha256(b"megacontext session " + session_id.encode("utf-8")).digest()[:16]


def to_request(service_name: str, spans: Sequence[Moment]) -> ExportTraceServiceRequest:
    """Encodes the spans as a request. The resource has the name of the service and nothing else."""
    encoded = [
        Span(
            trace_id=trace_id(span.session_id),
            span_id=secrets.token_bytes(8),
            name=span.name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=span.begin,
            end_time_unix_nano=span.end,
            attributes=[KeyValue(key=key, value=_any(value)) for key, value in span.attributes.items()],
        )
        for span in spans
    ]
    resource = Resource(attributes=[KeyValue(key="service.name", value=_any(service_name))])
    scope = ScopeSpans(scope=InstrumentationScope(name="megacontext"), spans=encoded)
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])])


class _HttpSender:
    """OTLP over HTTP in binary protobuf. Does not follow redirects."""

    def __init__(self, collector: Collector) -> None:
        context = _tls(collector) if collector.tls else False
        headers = {**collector.headers, "content-type": "application/x-protobuf", "user-agent": "megacontext"}
        self._url, self._client = collector.url, httpx.Client(headers=headers, verify=context)

    def send(self, request: ExportTraceServiceRequest, timeout_seconds: float) -> Outcome:
        """See `Sender`. The timeout applies to connecting and to each part that is written or read."""
        try:
            response = self._client.post(self._url, content=request.SerializeToString(), timeout=timeout_seconds)
            if response.is_success:
                return _answered(ExportTraceServiceResponse.FromString(response.content))
        except httpx.TimeoutException:
            return Outcome(False, "timed out", again=True)
        except httpx.HTTPError as error:
            return _failed(error)
        except DecodeError:
            return Outcome(False, "the answer is not that of an OTLP collector")
        status = f"{response.status_code} {response.reason_phrase}".strip()
        return Outcome(False, f"refused with status {status}", again=response.status_code in AGAIN_STATUS, said=response.text)

    def close(self) -> None:
        """See `Sender`."""
        self._client.close()


class _GrpcSender:
    """OTLP over gRPC, which is imported here only. `close` ends a request that hangs."""

    def __init__(self, collector: Collector) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read at import; the outcome has the reason of a failure
        import grpc
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

        options = [("grpc.max_reconnect_backoff_ms", RECONNECT_MS)]
        if collector.tls:
            files = collector.files
            credentials = grpc.ssl_channel_credentials(files.get("authority"), files.get("key"), files.get("certificate"))
            self._channel = grpc.secure_channel(collector.address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(collector.address, options)
        self._export, self._error = TraceServiceStub(self._channel).Export, grpc.RpcError
        self._metadata = tuple(collector.headers.items())

    def send(self, request: ExportTraceServiceRequest, timeout_seconds: float) -> Outcome:
        """See `Sender`."""
        try:
            return _answered(self._export(request, timeout=timeout_seconds, metadata=self._metadata))
        except self._error as error:
            code, details = error.code().name, error.details() or ""
        except ValueError:  # the channel was closed
            return Outcome(False, "closed")
        again = code in AGAIN_CODES
        if code == "DEADLINE_EXCEEDED":
            return Outcome(False, "timed out", again)
        if code == "UNAVAILABLE":
            what = "TLS failed" if "ssl" in details.lower() or "certificate" in details.lower() else "no connection"
            return Outcome(False, what, again, said=details)
        return Outcome(False, f"refused with status {code}", again, said=details)

    def close(self) -> None:
        """See `Sender`."""
        self._channel.close()


def _any(value: Value) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=item) for item in value]))
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(int_value=value)


def _answered(response: ExportTraceServiceResponse) -> Outcome:
    """Outcome of a request that the collector accepted."""
    part = response.partial_success
    reason = f"the collector rejected {part.rejected_spans:,} of the events" if part.rejected_spans else ""
    return Outcome(True, reason, rejected=part.rejected_spans, said=part.error_message)


def _failed(error: httpx.HTTPError) -> Outcome:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return Outcome(False, f"TLS failed: {getattr(cause, 'verify_message', '') or cause.reason or 'no TLS there'}", again=True)
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return Outcome(False, f"no connection: {cause.strerror}", again=True)
    if isinstance(error, httpx.ConnectError):
        return Outcome(False, "no connection", again=True)
    return Outcome(False, "the connection ended without an answer", again=True)


def _tls(collector: Collector) -> ssl.SSLContext:
    try:
        if "authority" in collector.paths:
            context = ssl.create_default_context(cafile=collector.paths["authority"])
        else:
            context = httpx.create_ssl_context()
        if "key" in collector.paths:
            context.load_cert_chain(collector.paths["certificate"], collector.paths["key"])
    except ssl.SSLError as error:
        names = ", ".join(FILES[key] for key in collector.paths)
        raise UserError(f"invalid files of {names}: expected certificates in PEM ({error.reason})") from error
    return context
