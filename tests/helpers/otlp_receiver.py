"""A real OTLP receiver, over HTTP or gRPC, that decodes what it gets with OpenTelemetry's protobuf. It can be told to misbehave."""

from __future__ import annotations

import gzip
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceServicer, add_TraceServiceServicer_to_server
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_SECONDS = 60


@dataclass
class Receiver:
    """What has come in. `status` is answered (of HTTP; gRPC refuses everything but 200), `rejected` spans reported as such.

    While `hangs` is set requests are read and not answered.
    """

    protocol: str
    port: int = 0
    status: int = 200
    rejected: int = 0
    hangs: threading.Event = field(default_factory=threading.Event)
    requests: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a process send to it."""
        return {
            "MC_OTEL_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": {"http": "http/protobuf", "grpc": "grpc"}[self.protocol],
        }

    @property
    def spans(self) -> list[Span]:
        """All spans."""
        decoded = map(ExportTraceServiceRequest.FromString, self.requests)
        return [
            span for request in decoded for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]

    @property
    def services(self) -> set[str]:
        """The names of the services that sent."""
        decoded = map(ExportTraceServiceRequest.FromString, self.requests)
        resources = [resource.resource for request in decoded for resource in request.resource_spans]
        assert all([a.key for a in resource.attributes] == ["service.name"] for resource in resources)
        return {resource.attributes[0].value.string_value for resource in resources}

    def named(self, name: str) -> list[dict[str, Any]]:
        """The attributes of all spans of a name, in order, without their prefix."""
        return [attributes(span) for span in self.spans if span.name == name]

    def until(self, count: int) -> None:
        """Waits for as many spans."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self.spans) < count:
            assert time.monotonic() < deadline, f"{len(self.spans)} of {count} spans came"
            time.sleep(0.01)

    def take(self, body: bytes, headers: dict[str, str], path: str) -> bytes:
        """Keeps a request; returns the answer."""
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in headers.items()})
        self.paths.append(path)
        until = time.monotonic() + WAIT_SECONDS
        while self.hangs.is_set() and time.monotonic() < until:
            time.sleep(0.01)
        response = ExportTraceServiceResponse()
        if self.rejected:
            response.partial_success.rejected_spans = self.rejected
            response.partial_success.error_message = "too old"
        return response.SerializeToString()


def attributes(span: Span) -> dict[str, Any]:
    """The attributes of a span, without their prefix."""
    assert all(item.key.startswith("mc.") for item in span.attributes)
    return {item.key.removeprefix("mc."): _value(item.value) for item in span.attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def receiver(protocol: str = "http", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a port of this machine; port 0 = a free one. `tls` is for HTTP."""
    with _http(Receiver(protocol, port), tls) if protocol == "http" else _grpc(Receiver(protocol, port)) as running:
        try:
            yield running
        finally:
            running.hangs.clear()


@contextmanager
def _http(running: Receiver, tls: ssl.SSLContext | None) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/x-protobuf"
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            answer = running.take(body, dict(self.headers), self.path)
            self.send_response(running.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # who was kept waiting, or speaks another protocol, is gone

    with Server(("127.0.0.1", running.port), Handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        running.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.hangs.clear()
        server.shutdown()


@contextmanager
def _grpc(running: Receiver) -> Iterator[Receiver]:
    class Servicer(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
            answer = running.take(request.SerializeToString(), dict(context.invocation_metadata()), "")
            if running.status != 200:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
            return ExportTraceServiceResponse.FromString(answer)

    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Servicer(), server)
    running.port = server.add_insecure_port(f"127.0.0.1:{running.port}")
    server.start()
    yield running
    running.hangs.clear()
    server.stop(0).wait()
