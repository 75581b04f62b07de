"""How much one request, and all of them together, may ask of the server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nanochat.flags import flag


@dataclass
class WebLimits:
    """Limits of the chat server. What is beyond one of them is refused with a clear answer."""

    max_rows: int = flag(8, "replies that each worker writes at the same time", unit="replies")
    max_queue: int = flag(64, "replies that may wait for a place; more are refused with status 429", unit="replies")
    max_seconds: float = flag(300.0, "a request is ended after this time, waiting included", unit="s")
    max_send_seconds: float = flag(20.0, "a client must have sent a request's head within this time, and its body", unit="s")
    max_connections: int = flag(512, "connections at the same time; more are refused with status 503", unit="connections")
    max_body_bytes: int = flag(1 << 20, "size of a request's body", unit="bytes")
    max_messages: int = flag(256, "messages of a conversation", unit="messages")
    max_characters: int = flag(200_000, "characters of a conversation", unit="characters")
    max_reply_tokens: int = flag(4096, "the longest reply a request may ask for", unit="tokens")
    max_choices: int = flag(4, "replies to one request (n)", unit="replies")
    max_open_sessions: int = flag(8, "sessions that each worker has open at the same time", unit="sessions")
    max_sessions: int = flag(1000, "sessions there may be", unit="sessions")
    session_idle_seconds: float = flag(
        600.0, "a session that nobody has asked for in this time is closed, and opened again on demand", unit="s"
    )
    max_document_bytes: int = flag(64 << 20, "size of a document that is uploaded into a session", unit="bytes")
    ingest_quota: int = flag(20_000_000, "the longest document that is read into a session", unit="tokens")
    context_tokens: int = flag(0, "conversation and reply together; 0 = the length of row the model was trained on", unit="tokens")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("max_queue", "context_tokens") else 1
            value = getattr(self, field.name)
            if not least <= value < float("inf"):
                raise ValueError(f"{field.name} is {value}; it must be at least {least}")
        if self.max_choices > self.max_rows + self.max_queue:
            raise ValueError(
                f"max_choices is {self.max_choices}, but max_rows and max_queue leave only {self.max_rows + self.max_queue} places"
            )
