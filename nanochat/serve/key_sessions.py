"""Sessions of one key of several: their names end in the key's name, which its clients neither write nor see."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nanochat.infer.request import ReplyRequest
from nanochat.serve.admission import Counts
from nanochat.serve.backend import Answer, Backend, Deliver, DeliverAnswer, Readiness, SessionRequest


def backend_of(backend: Backend, key: str) -> Backend:
    """`backend` as the key of that name sees it; one without a name sees all sessions."""
    return KeySessions(backend, key) if key else backend


class KeySessions:
    """`backend` as the key called `key` sees it: session `notes` of the key `ann` is `notes.ann`. See `Backend`.

    A suffix, since a name that begins with a dot must stay invalid. The name of a key has no dot, so that no two of them share a session.
    """

    def __init__(self, backend: Backend, key: str) -> None:
        self._backend, self._suffix = backend, f".{key}"

    @property
    def alive(self) -> bool:
        """See `Backend`."""
        return self._backend.alive

    def submit(self, request: ReplyRequest, deliver: Deliver) -> None:
        """See `Backend`."""
        if request.session is None:
            self._backend.submit(request, deliver)
            return
        names = [request.session]
        own = dataclasses.replace(request, session=request.session + self._suffix)
        self._backend.submit(own, lambda events: deliver([event._replace(news=self._seen(event.news, names)) for event in events]))

    def cancel(self, id: int) -> None:
        """See `Backend`."""
        self._backend.cancel(id)

    def finish(self, id: int, row: int) -> None:
        """See `Backend`."""
        self._backend.finish(id, row)

    def ask(self, request: SessionRequest, deliver: DeliverAnswer) -> None:
        """See `Backend`."""
        names = [request.arguments[key] for key in ("session", "new") if key in request.arguments]
        own = {key: value + self._suffix if key in ("session", "new") else value for key, value in request.arguments.items()}
        self._backend.ask(dataclasses.replace(request, arguments=own), lambda answer: deliver(self._seen(answer, names)))

    def drop(self, id: int) -> None:
        """See `Backend`."""
        self._backend.drop(id)

    def counts(self) -> Counts:
        """See `Backend`."""
        return self._backend.counts()

    def readiness(self) -> Readiness:
        """See `Backend`."""
        return self._backend.readiness()

    def close(self) -> None:
        """See `Backend`."""
        self._backend.close()

    def _seen(self, answer: Mapping[str, Any] | None, names: list[str]) -> Answer | None:
        """`answer` with the `names` that the client gave, and of a list its own sessions alone."""
        if answer is None:
            return None
        seen = dict(answer)
        for key in ("name", "fork_of"):
            if key in seen:
                seen[key] = seen[key].removesuffix(self._suffix)
        if "sessions" in seen:
            seen["sessions"] = [self._own(info) for info in seen["sessions"] if info["name"].endswith(self._suffix)]
        if "error" in seen:
            seen["error"] = seen["error"] | {"message": self._plain(seen["error"]["message"], names)}
        return seen

    def _own(self, info: Mapping[str, Any]) -> Answer:
        """A session of a list."""
        name = info["name"].removesuffix(self._suffix)
        return {**info, "name": name, "trouble": info["trouble"] and self._plain(info["trouble"], [name])}

    def _plain(self, text: str, names: list[str]) -> str:
        """`text` without the suffix of the sessions `names`."""
        for name in names:
            text = text.replace(name + self._suffix, name)
        return text
