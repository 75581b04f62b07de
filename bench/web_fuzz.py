"""Fuzz test of the chat server with bad requests and lost connections: `python -m bench.web_fuzz --requests 10000 --disconnects 1000`.

A server on 127.0.0.1, started here, gets malformed requests (not HTTP, not JSON, invalid, or nearly valid) and disconnects in the
middle of streams. The last line is JSON; the exit code is 1 if the server gave a 5xx, an answer of more than 4 KB or none at all,
kept a row, or grew.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from bench.tiny_chat import Server, running, save_chat_model
from bench.warm_start import WarmStart
from nanochat.flags import flag, parse, run

MAX_ANSWER_BYTES = 4096
SOCKET_SECONDS = 60.0
MAX_BODY_BYTES = 1 << 20  # the server's own limit
STREAM_TOKENS = 1024  # of the streams that are left
CONTEXT_TOKENS = 1100  # a larger prompt would be answered, and the cache of keys and values grow for it
ROWS = 8
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, -(2**63), 2**63, 10**40, 0.5, -0.0, 1e308, 1e-300, float("nan"), float("inf")),
    *("", "a", "0", "user", "assistant", "system", "tool", "\0", "\ud800", "é" * 3000, "<|bos|>", "🦊", "x" * 5000),
    *([], [[]], {}, {"type": "text"}, {"type": "text", "text": 1}, {"role": "user"}, {"role": "user", "content": "a"}, [1, "a", None]),
)
NAMES = (
    *("messages", "model", "stream", "stream_options", "n", "seed", "stop", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("top_k", "tools", "logprobs", "response_format", "user", "logit_bias", "functions", "modalities", "unknown", "__class__", ""),
    "session",
)
SESSION = "there"  # the one that exists
MEMORY = ("--mc", "--mc-tree=disk", "--allocator-soft-max-length=200", "--max-open-sessions=2", "--max-sessions=20")


@dataclass
class WebFuzz:
    """Send malformed requests to a chat server, and disconnect in the middle of streams."""

    requests: int = flag(10_000, "number of malformed requests")
    disconnects: int = flag(1_000, "number of disconnected streams")
    seed: int = flag(0, "seed of the requests")
    max_growth_mib: float = flag(24.0, "allowed growth of the server's memory after the first tenth", unit="MiB")

    def __post_init__(self) -> None:
        for name in ("requests", "disconnects"):
            if getattr(self, name) < 10:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 10")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all tests; returns 1 if the server failed one."""
    config = parse(WebFuzz, argv)
    with tempfile.TemporaryDirectory() as base, WarmStart() as warm:
        save_chat_model(Path(base), context_tokens=512, memory=True)
        with running(warm, Path(base), *MEMORY, f"--max-rows={ROWS}", f"--context-tokens={CONTEXT_TOKENS}", "-t=0") as server:
            fill(server)
            warmup = fuzz(server, config.requests // 10, config.seed + 1)
            fuzz_sessions(server, config.requests // 10, config.seed + 1)
            disconnect(server, config.disconnects // 10, config.seed + 1)
            before = server.memory_mib()
            began = time.monotonic()
            found = fuzz(server, config.requests, config.seed)
            sessions = fuzz_sessions(server, config.requests // 2, config.seed)
            left = disconnect(server, config.disconnects, config.seed)
            seconds = time.monotonic() - began
            growth = server.memory_mib() - before
            still = exchange(server.port, request({"messages": [{"role": "user", "content": "go"}], "max_tokens": 3}))
            alive = server.process.poll() is None
    result = {
        **found,
        **left,
        "sessions": sessions,
        "growth_mib": round(growth, 1),
        "still_answers": still.startswith(b"HTTP/1.1 200") and b'"abc"' in still,
        "seconds": round(seconds, 1),
    }
    good = (
        alive
        and result["still_answers"]
        and all(each["answered"] == each["requests"] for each in (found, sessions))
        and found["answered_5xx"] + warmup["answered_5xx"] + sessions["answered_5xx"] == 0
        and max(found["longest_answer_bytes"], sessions["longest_answer_bytes"]) <= MAX_ANSWER_BYTES
        and left["rows_left"] == 0
        and growth <= config.max_growth_mib
    )
    print(json.dumps({"good": good, **result}))
    return 0 if good else 1


def fill(server: Server) -> None:
    """Runs as many replies as there is room for, each as long as a stream can get, so that the cache has its full size."""
    streams = [open_stream(server.port) for _ in range(ROWS)]
    for connection in streams:
        while connection.recv(65536):
            pass
        connection.close()


def fuzz_sessions(server: Server, requests: int, seed: int) -> dict[str, Any]:
    """`fuzz` below /v1/sessions, with an existing session and invalid ones."""
    exchange(server.port, request({"name": SESSION}, "POST /v1/sessions"))
    return fuzz(server, requests, seed, malformed_session)


def fuzz(server: Server, requests: int, seed: int, make: Callable[[random.Random], bytes] | None = None) -> dict[str, Any]:
    """Sends malformed requests (of `make`, by default `malformed`), one after the other, and counts the answers.

    `answered` does not count connections that were closed without an answer. The answer to a request that is too large may be lost
    while it is still being sent: these are `cut_off`.
    """
    rng = random.Random(seed)
    statuses: Counter[str] = Counter()
    longest = 0
    for _ in range(requests):
        sent = (make or malformed)(rng)
        answer = exchange(server.port, sent)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head[9:12].decode("ascii", "replace") if head.startswith(b"HTTP/1.1 ") else "closed"
        if status == "closed" and len(sent) > MAX_BODY_BYTES:
            status = "cut_off"
        statuses[status] += 1
        if status[:1] != "2":  # a mutation may have left a request that can be answered
            longest = max(longest, len(body))
    return {
        "requests": requests,
        "answered": sum(count for status, count in statuses.items() if status != "closed"),
        "answered_5xx": sum(count for status, count in statuses.items() if status.startswith("5")),
        "statuses": dict(sorted(statuses.items())),
        "longest_answer_bytes": longest,
    }


def disconnect(server: Server, disconnects: int, seed: int) -> dict[str, Any]:
    """Opens long streams and disconnects each after a while. `rows_left` is the number of rows still decoded then."""
    rng = random.Random(seed)
    left = 0
    while left < disconnects:
        together = [open_stream(server.port) for _ in range(min(4, disconnects - left))]
        for connection in together:
            for _ in range(rng.randrange(3)):
                connection.recv(rng.choice((1, 100, 5000)))
            if rng.random() < 0.5:  # a reset instead of a goodbye
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        left += len(together)
    deadline = time.monotonic() + 5.0
    while (rows := rows_held(server)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return {"disconnects": left, "rows_left": rows}


def rows_held(server: Server) -> int:
    """Replies that the server decodes or has in its queue."""
    stats = server.stats()
    return stats["active"] + stats["queued"]


def open_stream(port: int) -> socket.socket:
    """Connection with a long stream."""
    connection = socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS)
    connection.sendall(request({"messages": [{"role": "user", "content": "go"}], "stream": True, "max_tokens": STREAM_TOKENS}))
    return connection


def exchange(port: int, data: bytes) -> bytes:
    """Sends `data`, and reads until the server closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR) if b"Connection: close" not in data and not data.startswith(b"POST /v1") else None
            while more := connection.recv(65536):
                answer += more
        except ConnectionError:
            pass  # it may close while we are still sending
    return answer


def request(body: Any, line: str = "POST /v1/chat/completions") -> bytes:
    """Well-formed HTTP request with `body`, bytes or a JSON value."""
    # ensure_ascii: half a surrogate can be written that way only.
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = HEAD.replace("POST /v1/chat/completions", line, 1)
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def malformed(rng: random.Random) -> bytes:
    """Nearly valid request."""
    kind = rng.randrange(6)
    if kind == 0:
        return request(rng.randbytes(rng.randrange(300)))
    if kind == 1:
        return request(_deep(rng))
    if kind == 2:
        return _bad_http(rng)
    good = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 2}
    if kind == 3:
        text = bytearray(json.dumps(good).encode())
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        return request(bytes(text[: rng.randrange(len(text) + 1)] if rng.random() < 0.3 else text))
    if kind == 4:
        message = {"role": rng.choice(VALUES), "content": rng.choice(VALUES), rng.choice(NAMES): rng.choice(VALUES)}
        count = rng.choice((1, 1, 2, 300))
        return request({**good, "messages": [rng.choice([message, rng.choice(VALUES)]) for _ in range(count)]})
    for _ in range(rng.randrange(1, 4)):
        good[rng.choice(NAMES)] = rng.choice(VALUES)
    return request(good)


def malformed_session(rng: random.Random) -> bytes:
    """Nearly valid request for a session."""
    strange = quote_from_bytes(rng.randbytes(rng.randrange(1, 90)))
    name = rng.choice((SESSION, SESSION, "none", strange, "..", "%2e%2e%2fetc", "a" * 300, "%00", "."))
    method = rng.choice(("GET", "POST", "DELETE", "PUT", "PATCH"))
    kind = rng.randrange(5)
    if kind == 0:
        fields = {rng.choice(("name", "fork_of", "x")): rng.choice((SESSION, *VALUES)) for _ in range(rng.randrange(3))}
        return request(rng.choice((fields, rng.choice(VALUES), rng.randbytes(50))), "POST /v1/sessions")
    if kind == 1:
        numbers = [rng.choice(("0", "5", "99999", "-1", "1e9", "9" * 30, "%C2%B2", "", "NaN", strange)) for _ in range(2)]
        return request(b"", f"GET /v1/sessions/{name}/text?start={numbers[0]}&end={numbers[1]}")
    if kind == 2:
        content = rng.choice((b"", b"\0" * 9, rng.randbytes(300), b"word " * 200 + b"\xff"))
        return request(content, f"POST /v1/sessions/{name}/documents?name={rng.choice((strange, 'a.txt', '', 'a' * 900))}")
    if kind == 3:
        body = {"messages": [{"role": "user", "content": rng.choice(VALUES)}], "session": rng.choice((SESSION, *VALUES)), "max_tokens": 2}
        return request(body)
    keep = name == SESSION and method == "DELETE"  # or there would be none
    return request(b"", f"{'GET' if keep else method} /v1/sessions/{name}{rng.choice(('', '/focus', '/messages', '/' + strange))}")


def _deep(rng: random.Random) -> bytes:
    opening = rng.choice((b"[", b'{"messages":', b'{"a":[', b'[{"role":'))
    depth = rng.choice((10, 200, 5000))
    closed = b"" if rng.random() < 0.5 else b"]" * depth
    return rng.choice((b"", b'{"messages":', b'{"messages":[{"role":"user","content":')) + opening * depth + closed


def _bad_http(rng: random.Random) -> bytes:
    """Requests that are invalid before their body."""
    return rng.choice(
        (
            b"\0" * rng.randrange(1, 50) + b"\r\n\r\n",
            rng.randbytes(rng.randrange(1, 200)) + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET /v1/models/%00%ff%2e%2e HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"DELETE /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            HEAD.replace("application/json", "multipart/form-data").encode() + b"Content-Length: 2\r\n\r\n{}",
            HEAD.encode() + b"Authorization: Bearer \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
            HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
            HEAD.encode() + f"Content-Length: {rng.randrange(2**21, 2**40)}\r\n\r\n".encode() + b"x" * (MAX_BODY_BYTES + 1),
        )
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run(main)
