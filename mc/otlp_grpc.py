"""One request to a collector over gRPC: the part of `mc.otlp` that needs grpcio."""

from __future__ import annotations

import os

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mc.collector import Collector
from mc.otlp import AGAIN_CODES, Outcome, answered

RECONNECT_MS = 5_000  # at most between two attempts to connect: gRPC's own two minutes would outlast the collector's restart


class GrpcSender:
    """See `mc.otlp.Sender`. `close` ends a request that hangs."""

    def __init__(self, collector: Collector) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read at import; what went wrong is in the outcome
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
        """See `mc.otlp.Sender`."""
        try:
            return answered(self._export(request, timeout=timeout_seconds, metadata=self._metadata))
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
        """See `mc.otlp.Sender`."""
        self._channel.close()
