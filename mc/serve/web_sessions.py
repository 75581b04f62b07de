"""Sessions of a chat server: opened on request, closed when idle. Implements the interfaces of `nanochat.serve.backend`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mc.config import SessionConfig
from mc.loading import LoadedMemory
from mc.serve.guarded_session import guarded
from mc.serve.refocus_times import RefocusTimes
from mc.serve.web_views import focus_view, messages_view, text_view
from mc.session.base_session import Session
from mc.session.conversation import Turn
from mc.session.files import SessionInfo, valid_name
from mc.session.ingest import ingest
from mc.session.store import SessionStore
from mc.telemetry.sessions import SessionTelemetry
from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.reply import stop_tokens
from nanochat.serve.backend import Answer, SessionError
from nanochat.serve.http.limits import WebLimits

MESSAGES = 40  # shown when a session is opened again


def open_sessions(loaded: LoadedMemory, config: SessionConfig, limits: WebLimits, telemetry: SessionTelemetry | None = None) -> WebSessions:
    """Sessions of a server of `loaded`. Raises `UserError` if `config` does not fit its memory."""
    telemetry = telemetry or SessionTelemetry()
    try:
        store = SessionStore(loaded.memory, loaded.identity, config, watch=telemetry.hooks)
    except ValueError as error:
        raise UserError(str(error)) from error
    return WebSessions(store, loaded.tokenizer, limits, telemetry.close)


class WebSessions:
    """Sessions in `store`; idle ones are closed. `at_end` is called when all are. See `nanochat.serve.backend.Sessions`."""

    def __init__(self, store: SessionStore, tokenizer: Tokenizer, limits: WebLimits, at_end: Callable[[], None] = lambda: None) -> None:
        self._store, self._tokenizer, self._limits, self._at_end = store, tokenizer, limits, at_end
        self._open: dict[str, Session] = {}  # the most recently used one is last
        self._used: dict[str, float] = {}  # time of the last use of each open one
        self._busy: set[str] = set()

    def turn(self, name: str, tokens: Sequence[int]) -> WebTurn:
        """See `nanochat.serve.backend.Sessions`."""
        with _refusing(self._store.root):
            session = self._acquire(name)
            try:
                return WebTurn(session, self._tokenizer, tokens, self._store.root, lambda broken: self._release(name, broken))
            except BaseException:
                self._release(name, broken=True)
                raise

    def answer(self, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """See `nanochat.serve.backend.Sessions`."""
        operations: dict[str, Callable[..., Answer]] = {
            "list": self._list,
            "check": self._check,
            "create": self._create,
            "fork": self._fork,
            "delete": self._delete,
            "delete_empty": self._delete_empty,
            "focus": lambda session: focus_view(self._session(session), with_scores=True),
            "messages": lambda session: messages_view(self._session(session), self._tokenizer, MESSAGES),
            "text": lambda session, start, end: text_view(self._session(session), self._tokenizer, start, end),
        }
        with _refusing(self._store.root):
            return operations[operation](**arguments)

    def ingest(self, arguments: Mapping[str, Any], seconds: Callable[[], float]) -> Iterator[Answer]:
        """See `nanochat.serve.backend.Sessions`. The arguments are `session`, the `path` of a file, and the document's `title`."""
        name, path, title = arguments["session"], Path(arguments["path"]), arguments["title"]
        with _refusing(self._store.root):
            session = self._acquire(name)
        broken, before = True, session.length
        try:
            with _refusing(self._store.root, path, title):
                quota = self._limits.ingest_quota
                reading = ingest(session, self._tokenizer, path, chat=True, quota=quota, name=title, lasting=False, seconds=seconds)
                with contextlib.closing(reading):
                    for progress in reading:
                        yield {"stage": progress.stage, "read": progress.done, "total": progress.total}
                yield {"tokens": session.length - before, "focus": focus_view(session)}
            broken = False
        except GeneratorExit:
            broken = False
            raise
        finally:
            self._release(name, broken)
            if broken and before == 0:
                with _refusing(self._store.root):
                    self._store.delete(name)

    def tidy(self) -> float | None:
        """See `nanochat.serve.backend.Sessions`."""
        now = time.monotonic()
        ends = {name: self._used[name] + self._limits.session_idle_seconds - now for name in self._open if name not in self._busy}
        for name in [name for name, seconds in ends.items() if seconds <= 0]:
            self._close(name)
        return min((max(0.01, seconds) for seconds in ends.values() if seconds > 0), default=None)

    def close(self) -> None:
        """See `nanochat.serve.backend.Sessions`."""
        for name in list(self._open):
            self._close(name)
        self._at_end()

    def _list(self) -> Answer:
        return {"sessions": [self._described(info) for info in self._store.list()]}

    def _described(self, info: SessionInfo) -> Answer:
        readable = info.manifest == dict(self._store.identity)
        trouble = info.damaged or (None if readable else f"it was made with another model ({info.manifest.get('model', 'unknown')})")
        session = self._open.get(info.name)
        return {
            "name": info.name,
            "tokens": info.tokens if session is None else session.length,
            "bytes": info.bytes,
            "modified": info.modified,
            "model": info.manifest.get("model"),
            "trouble": None if trouble is None else _without_paths(trouble, self._store.root),
            "unfinished": None if info.unfinished is None or info.name in self._busy else info.unfinished.describe(info.tokens),
            "busy": info.name in self._busy,
        }

    def _check(self, session: str) -> Answer:
        """Refuses a session that cannot be written now."""
        self._check_there(session)
        self._check_free(session)
        return {}

    def _create(self, session: str) -> Answer:
        self._check_new(session)
        self._make_room()
        self._open[session] = self._store.open(session)
        self._used[session] = time.monotonic()
        return {"name": session, "tokens": 0}

    def _fork(self, session: str, new: str) -> Answer:
        self._check_new(new)
        self._check_free(session)
        original = self._session(session)
        self._store.fork(session, new)
        self._store.close(new)  # the next user, perhaps another process, opens it
        return {"name": new, "tokens": original.length, "fork_of": session}

    def _delete(self, session: str) -> Answer:
        self._check_there(session)
        self._check_free(session)
        if session in self._open:
            self._close(session)
        self._store.delete(session)
        return {"name": session, "deleted": True}

    def _delete_empty(self, session: str) -> Answer:
        """Deletes a session that holds nothing: its first document was refused."""
        self._check_free(session)
        return {} if self._session(session).length else self._delete(session)

    def _check_new(self, name: str) -> None:
        if self._store.exists(name):
            raise SessionError(f"session {name} already exists; give another name", 409)
        if len(self._store.list()) >= self._limits.max_sessions:
            raise SessionError(f"there are already {self._limits.max_sessions} sessions, the maximum; delete one", 409)

    def _check_there(self, name: str) -> None:
        if not self._store.exists(name):
            raise SessionError(
                f"session {valid_name(name)} does not exist; GET /v1/sessions lists them, POST /v1/sessions creates one", 404
            )

    def _check_free(self, name: str) -> None:
        if name in self._busy:
            raise SessionError(f"session {name} is busy: a reply or a document is being written into it; try again when it is done", 409)

    def _session(self, name: str) -> Session:
        """The session `name`, opened if need be; marks it as the most recently used one."""
        self._check_there(name)
        if name not in self._open:
            self._make_room()
            self._open[name] = self._store.open(name)
        self._open[name] = self._open.pop(name)
        self._used[name] = time.monotonic()
        return self._open[name]

    def _make_room(self) -> None:
        while len(self._open) >= self._limits.max_open_sessions:
            oldest = next((name for name in self._open if name not in self._busy), None)
            if oldest is None:
                raise SessionError(f"{self._limits.max_open_sessions} sessions are in use, the maximum; try again later", 429)
            self._close(oldest)

    def _acquire(self, name: str) -> Session:
        """The session `name`, marked as busy, for writing."""
        valid_name(name)
        self._check_free(name)
        session = self._session(name)
        self._busy.add(name)
        return session

    def _release(self, name: str, broken: bool) -> None:
        """Ends the writing; if `broken`, its files have failed, and it is closed so that only what they hold counts."""
        self._busy.discard(name)
        self._used[name] = time.monotonic()
        if broken:
            self._close(name)

    def _close(self, name: str) -> None:
        session = self._open.pop(name)
        del self._used[name]
        try:
            self._store.close(name)
        except UserError as error:  # a full disk: the files have all but the newest tokens
            print(f"session {name} was not saved completely: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(UserError):  # fails again, but releases the files
                session.tree.close()


class WebTurn:
    """A turn in a session below `root`; `release(broken)` is called at the end. See `nanochat.serve.backend.SessionTurn`."""

    def __init__(self, session: Session, tokenizer: Tokenizer, tokens: Sequence[int], root: Path, release: Callable[[bool], None]) -> None:
        self._session, self._tokenizer, self._root, self._release = session, tokenizer, root, release
        session.hooks = self._times = RefocusTimes(session.hooks)
        self._turn = Turn(session, tokenizer, [*([] if session.length else [tokenizer.bos_id]), *tokens])
        self.prompt, self._before = self._turn.prompt, session.length
        self.memory = guarded(session)
        self._newest: int | None = None  # newest token of the reply, not in the turn yet
        self._refocuses = session.figures.refocuses

    @property
    def trouble(self) -> str | None:
        """See `nanochat.serve.backend.SessionTurn`."""
        return None if self.memory.trouble is None else _without_paths(self.memory.trouble, self._root)

    def feed(self, token: int) -> None:
        """See `nanochat.serve.backend.SessionTurn`."""
        if self._newest is not None:
            self._turn.add(self._newest)
        self._newest = token

    def news(self) -> Answer | None:
        """See `nanochat.serve.backend.SessionTurn`."""
        if self._session.figures.refocuses == self._refocuses:
            return None
        self._refocuses = self._session.figures.refocuses
        return focus_view(self._session) | {"refocus_ms": [round(each, 3) for each in self._times.take()]}

    def end(self) -> None:
        """See `nanochat.serve.backend.SessionTurn`. A turn whose prompt was never read leaves no trace."""
        broken = True
        try:
            if self.trouble is not None:
                raise SessionError(self.trouble, 507)
            with _refusing(self._root):
                if self._session.length > self._before:
                    if self._newest is not None and self._newest not in stop_tokens(self._tokenizer):
                        self._turn.add(self._newest)
                    self._turn.close()
            broken = False
        finally:
            self._session.hooks = self._times.inner
            self._release(broken)


@contextlib.contextmanager
def _refusing(root: Path, path: Path | None = None, title: str = "") -> Iterator[None]:
    """Turns errors into `SessionError`: an invalid name into a bad request, a disk that fails into 507, other errors into a conflict.

    Messages name no folder of the server: `root` is that of the sessions. In errors of a document, `title` replaces the temporary `path`.
    """
    try:
        yield
    except SessionError:
        raise
    except UserError as error:
        status = 507 if _disk_failed(error) else 409 if path is None else 422
        message = str(error) if path is None else str(error).replace(str(path), title)
        raise SessionError(_without_paths(message, root), status) from error
    except ValueError as error:
        raise SessionError(_without_paths(str(error), root), 400) from error


def _disk_failed(error: BaseException | None) -> bool:
    """True if a disk that is full, read-only or broken is the cause; a lock that another process holds is none."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error is not None and not isinstance(error, BlockingIOError | FileNotFoundError)


def _without_paths(message: str, root: Path) -> str:
    """`message` with the names of the server's folders shortened to what a client knows."""
    for folder in (root, root.parent):
        message = message.replace(f"{folder}/", "").replace(str(folder), "the server's folder")
    return message
