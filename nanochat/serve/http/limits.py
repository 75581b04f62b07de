"""Limits of the chat server: of one request, and of all together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nanochat.flags import flag


@dataclass
class WebLimits:
    """Limits of the chat server. Requests beyond one of them are refused."""

    max_rows: int = flag(8, "rows decoded at once by each worker", unit="replies")
    max_queue: int = flag(64, "replies that may wait; more are refused with status 429", unit="replies")
    max_seconds: float = flag(300.0, "time limit of a request, waiting included", unit="s")
    max_send_seconds: float = flag(20.0, "time limit for receiving a request's head, and again its body", unit="s")
    max_connections: int = flag(512, "concurrent connections; more are refused with status 503", unit="connections")
    max_client_connections: int = flag(0, "concurrent connections of one address; 0 = half of max_connections", unit="connections")
    max_body_bytes: int = flag(1 << 20, "maximum size of a request's body", unit="bytes")
    max_messages: int = flag(256, "maximum messages of a conversation", unit="messages")
    max_characters: int = flag(200_000, "maximum characters of a conversation", unit="characters")
    max_reply_tokens: int = flag(4096, "maximum max_tokens of a request", unit="tokens")
    max_choices: int = flag(4, "maximum replies to one request (n)", unit="replies")
    max_open_sessions: int = flag(8, "maximum open sessions of each worker", unit="sessions")
    max_sessions: int = flag(1000, "maximum number of sessions", unit="sessions")
    session_idle_seconds: float = flag(600.0, "close a session that is idle for this long; it is reopened on demand", unit="s")
    max_document_bytes: int = flag(64 << 20, "maximum size of a document that is uploaded into a session", unit="bytes")
    ingest_quota: int = flag(20_000_000, "maximum length of a document that is read into a session", unit="tokens")
    context_tokens: int = flag(0, "maximum conversation plus reply; 0 = the model's training sequence length", unit="tokens")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("max_queue", "context_tokens", "max_client_connections") else 1
            value = getattr(self, field.name)
            if not least <= value < float("inf"):
                raise ValueError(f"{field.name} is {value}; it must be at least {least}")
        if self.max_client_connections > self.max_connections:
            raise ValueError(
                f"max_client_connections is {self.max_client_connections}; it must be at most max_connections, {self.max_connections}"
            )
        if self.max_choices > self.max_rows + self.max_queue:
            raise ValueError(
                f"max_choices is {self.max_choices}, but max_rows and max_queue leave only {self.max_rows + self.max_queue} places"
            )

    @property
    def client_connections(self) -> int:
        """Concurrent connections of one address."""
        return self.max_client_connections or max(1, self.max_connections // 2)
