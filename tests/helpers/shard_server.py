"""A real HTTP server for shards, with `Range`, and with the faults that real ones have."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(documents: list[str]) -> bytes:
    """A parquet file with a column "text"."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": documents}), buffer)
    return buffer.getvalue()


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    sent: int = 0  # bytes of the body


@dataclass
class ShardServer:
    """Serves `files` (name → bytes) on loopback; `with` starts and stops it.

    `faults[name]` are taken one per request: `drop` (half the body, then the connection ends), `short` (half the body, called
    whole), `flip` (one byte wrong), `503`, `404`, `ignore_range`, `slow` (pauses after half the body), `html` (another body),
    `redirect` (to `/stored/NAME`, stating size and hash as the hub does, with a wrong byte behind it).
    """

    files: dict[str, bytes]
    state_hash: bool = True
    faults: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> ShardServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/data"
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, name: str, *faults: str) -> None:
        self.faults[name].extend(faults)

    def asked(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith("/" + name)]


def _handler(server: ShardServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
            server.requests.append(request)
            name = self.path.rpartition("/")[2]
            stored = self.path.startswith("/stored/")
            fault = "flip" if stored else (server.faults[name].popleft() if server.faults[name] else "")
            if name not in server.files or fault in ("404", "503"):
                self.send_response(int(fault or 404))
                self.send_header("Retry-After", "0")
                self.end_headers()
                return
            body = server.files[name]
            digest = hashlib.sha256(body).hexdigest()
            if fault == "redirect":
                self.send_response(302)
                self.send_header("X-Linked-ETag", f'"{digest}"')
                self.send_header("X-Linked-Size", str(len(body)))
                self.send_header("Location", f"/stored/{name}")
                self.end_headers()
                return
            if fault == "html":
                body = b"<html>please log in</html>"
            if fault == "flip":
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            start = int(request.headers["range"][len("bytes=") : -1]) if "range" in request.headers and fault != "ignore_range" else 0
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            part = body[start:]
            if fault == "short":
                part = part[: len(part) // 2]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{start + len(part)}")
            if server.state_hash and not stored:
                self.send_header("X-Linked-ETag", f'"{digest}"')
                self.send_header("X-Linked-Size", str(len(server.files[name])))
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            half = len(part) // 2 if fault in ("drop", "slow") else len(part)
            self._send(part[:half], request)
            if fault == "slow":
                time.sleep(30)
            elif fault == "drop":
                self.close_connection = True

        def _send(self, data: bytes, request: Request) -> None:
            self.wfile.write(data)
            self.wfile.flush()
            request.sent += len(data)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
