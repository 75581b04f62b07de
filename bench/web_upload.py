"""Replies of the chat server while a large document is uploaded into a session: `python -m bench.web_upload --megabytes 30`.

A server on 127.0.0.1, started here, streams replies alone and then beside the upload. The last line is JSON; the exit code is 1 if a
reply lost more than half of its speed, or a first token took more than a second.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.tiny_chat import TEXT, Server, running, save_chat_model
from bench.warm_start import WarmStart
from nanochat.flags import flag, parse, run

LEAST_SPEED = 0.5  # beside the upload, of that alone
MOST_FIRST_SECONDS = 1.0


@dataclass
class WebUpload:
    """Measure replies of a chat server beside the upload of a large document."""

    megabytes: float = flag(30.0, "size of the document", unit="MB")
    replies: int = flag(5, "replies alone, and again beside the upload")
    tokens: int = flag(300, "length of a reply", unit="tokens")

    def __post_init__(self) -> None:
        for name in ("megabytes", "replies", "tokens"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")


class Reply(NamedTuple):
    """Seconds to the first token, and tokens per second after it."""

    first_seconds: float
    speed: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns 1 if the upload takes too much."""
    config = parse(WebUpload, argv)
    with tempfile.TemporaryDirectory() as base, WarmStart() as warm:
        save_chat_model(Path(base), context_tokens=512, memory=True)
        limits = (f"--max-document-bytes={int(config.megabytes * 2e6)}", "--ingest-quota=1000000000", "--context-tokens=100000")
        flags = ("--mc", "--mc-tree=disk", "--mc-session-lod=8", "-t=0", f"--max-tokens={config.tokens}", *limits)
        with running(warm, Path(base), *flags) as server:
            ask(server, config.tokens)
            alone = [ask(server, config.tokens) for _ in range(config.replies)]
            upload = Upload(server, config.megabytes)
            upload.reading.wait()
            beside = [ask(server, config.tokens) for _ in range(config.replies)]
            was_reading = upload.thread.is_alive()
            read = upload.read
            upload.stop()
    speed, first = statistics.median(r.speed for r in beside) / statistics.median(r.speed for r in alone), max(r[0] for r in beside)
    good = was_reading and speed >= LEAST_SPEED and first <= MOST_FIRST_SECONDS
    result = {
        "good": good,
        "speed_kept": round(speed, 3),
        "first_seconds": round(first, 3),
        "first_seconds_alone": round(max(r.first_seconds for r in alone), 3),
        "tokens_per_second_alone": round(statistics.median(r.speed for r in alone), 1),
        "document_tokens_read": read,
        "was_reading": was_reading,
    }
    print(json.dumps(result))
    return 0 if good else 1


def ask(server: Server, tokens: int) -> Reply:
    """Streams a reply of `tokens` tokens."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    body = {"messages": [{"role": "user", "content": "go"}], "stream": True, "max_tokens": tokens}
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    times = [time.monotonic() for line in connection.getresponse() if b'"content": "' in line and b'"content": ""' not in line]
    connection.close()
    return Reply(times[0] - began, tokens / (time.monotonic() - times[0]))


class Upload:
    """An upload of a document in a thread; `reading` is set when its tokens are being added, `read` is how many have been."""

    def __init__(self, server: Server, megabytes: float) -> None:
        self.reading, self.read = threading.Event(), 0
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        self._connection.request("POST", "/v1/sessions", json.dumps({"name": "long"}), {"Content-Type": "application/json"})
        self._connection.getresponse().read()
        self._text = (TEXT + "\n").encode() * (int(megabytes * 1e6) // len(TEXT) + 1)
        self._stopped = False
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Breaks off the upload."""
        self._stopped = True
        self.thread.join()

    def _send(self) -> None:
        self._connection.request("POST", "/v1/sessions/long/documents?name=long.txt", self._text)
        for line in self._connection.getresponse():
            if line.startswith(b"data: {"):
                self.read = json.loads(line[6:]).get("read", self.read)
                self.reading.set()
            if self._stopped:
                break
        self.reading.set()
        self._connection.close()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run(main)
