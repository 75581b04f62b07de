"""Session commands of `chat_cli --mc`: open, fork, list and inspect sessions, and read documents into them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mc.config import SessionConfig
from mc.loading import LoadedMemory
from mc.session.conversation import SessionConversation, unfinished
from mc.session.describe import describe_focus
from mc.session.files import SessionInfo, valid_name
from mc.session.ingest import QUOTA, follow, ingest, is_whole
from mc.session.store import SessionStore
from mc.telemetry.provider import TelemetryFlags
from mc.telemetry.sessions import SessionTelemetry
from nanochat.common import UserError, printable
from nanochat.flags import GIVEN, flag, flat_values, part
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import Tools
from scripts.shared.terminal import put

NAME = "chat"  # of the session if none is named


@dataclass
class MemoryFlags:
    """Flags of `chat_cli --mc`: the session, and a document for it."""

    session: str | None = flag(
        None,
        f"session to continue or create, on disk unless --mc-tree is ram; None = one called {NAME}",
        presets={GIVEN: {"mc_tree": "disk"}},
    )
    session_repair: bool = flag(False, "truncate a damaged session to its last valid block")
    regist: str | None = flag(None, "session on disk whose tokens the session, a new one, reads first: of another model or memory")
    ingest: str | None = flag(None, "text file that the session reads first")
    ingest_quota: int = flag(QUOTA, "maximum length of a document", unit="tokens")
    config: SessionConfig = part(SessionConfig)
    telemetry: TelemetryFlags = part(TelemetryFlags)

    def __post_init__(self) -> None:
        if self.session is not None:
            valid_name(self.session)
        if self.regist is not None:
            valid_name(self.regist)
            if self.session_repair:
                raise ValueError("session_repair has no effect with regist, which makes a new session")
        if self.ingest_quota < 1:
            raise ValueError(f"ingest_quota is {self.ingest_quota}; it must be at least 1")
        if self.session_repair and self.config.mc_tree == "ram":
            raise ValueError("session_repair has no effect on sessions in RAM; name one on disk with --session")

    def check_unused(self) -> None:
        """Raises `ValueError` naming a flag that is given without a memory."""
        for name, value in flat_values(MemoryFlags()).items():
            if flat_values(self)[name] != value:
                raise ValueError(f"{name} has no effect without --mc")


class Command(NamedTuple):
    """A command, typed as `/name`, with the required `argument`, if any, after it."""

    does: str
    run: Callable[[str], None]
    argument: str = ""


class MemoryChat:
    """The session that is open, and the commands on it. Leaving the context saves and closes it.

    `say` prints what happens to the session, and `telemetry` observes it. Raises `UserError` if the session cannot be opened, or
    the flags do not fit the memory.
    """

    def __init__(
        self,
        loaded: LoadedMemory,
        flags: MemoryFlags,
        sampling: Sampling,
        base: bool,
        tools: Tools | None,
        say: Callable[[str], None],
        telemetry: SessionTelemetry,
    ) -> None:
        self._say, self._quota, self._tokenizer, self._base = say, flags.ingest_quota, loaded.tokenizer, base
        with _as_user_error():
            self._store = SessionStore(loaded.memory, loaded.identity, flags.config, watch=telemetry.hooks)
            self.name = flags.session or NAME
            if flags.regist is not None:
                say(f"reading the tokens of session {flags.regist} into session {self.name}")
                session = self._store.regist(flags.regist, self.name)
            else:
                session = self._store.open(self.name, flags.session_repair)
        self.conversation = SessionConversation(session, loaded.tokenizer, sampling, base, tools)
        self._say_which()

    def __enter__(self) -> MemoryChat:
        return self

    def __exit__(self, *exception: object) -> None:
        self._store.close_all()

    @property
    def commands(self) -> dict[str, Command]:
        """By name, without the slash."""
        return {
            "sessions": Command("lists the sessions", lambda _: self._list()),
            "focus": Command("shows the parts of the history that the model reads", lambda _: self._focus()),
            "open": Command("opens or creates another session", self._open, "NAME"),
            "fork": Command("continues in a copy of this session", self._fork, "NAME"),
            "ingest": Command("reads a text file into the session", lambda path: self.ingest(path) and None, "FILE"),
            "clear": Command("creates a new session; this one stays", lambda _: self._clear()),
        }

    def ingest(self, path: str) -> bool:
        """Reads a file into the session, which may take long; returns whether it was read to its end. Ctrl-C stops it."""
        file, session = to_path(path), self.conversation.session
        reading = ingest(session, self._tokenizer, file, chat=not self._base, quota=self._quota)
        begin = time.monotonic()
        last = follow(reading, printable(file.name))
        if is_whole(last):
            speed = last.total / (time.monotonic() - begin + 1e-9)
            self._say(f"[{file.name} was read: {last.total:,} tokens, {speed:,.0f} tokens/s; {self._which()}]")
            return True
        read = f"the first {last.done:,} of {last.total:,} tokens of" if last is not None and last.stage == "add" else "nothing of"
        self._say(f"[stopped: {read} {file.name} {'were' if read != 'nothing of' else 'was'} read; {self._which()}]")
        return False

    def _list(self) -> None:
        infos = [info for info in self._store.list() if info.name != self.name]
        mine = next((info for info in self._store.list() if info.name == self.name), None)
        rows = [("", "session", "tokens", "size", "written", "model")]
        if mine is not None:
            rows.append(self._row(mine._replace(tokens=self.conversation.session.length), "*"))
        rows += [self._row(info, " ") for info in infos]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        for mark, name, tokens, size, written, model in rows:
            put(f"{mark:<{widths[0]}} {name:<{widths[1]}}  {tokens:>{widths[2]}}  {size:>{widths[3]}}  {written:<{widths[4]}}  {model}")
        put(f"* is open. Sessions are in {self._store.root if self._store.on_disk else 'this process, and end with it'}.")

    def _row(self, info: SessionInfo, mark: str) -> tuple[str, ...]:
        size = f"{info.bytes / 1e6:,.2f} MB" if self._store.on_disk else "-"
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.modified)) if info.modified else "-"
        if info.damaged is not None:
            return mark, info.name, "?", size, written, "damaged: --session-repair may help"
        theirs = [key for key, value in self._store.identity.items() if info.manifest.get(key) != value]
        half = "" if info.unfinished is None else f" ({info.unfinished.describe(info.tokens)})"
        model = f"{info.manifest.get('model', 'unknown')}{' (another model: cannot be opened here)' if theirs else ''}{half}"
        return mark, info.name, f"{info.tokens:,}", size, written, model

    def _focus(self) -> None:
        put(f"session {self.name}: {describe_focus(self.conversation.session, self._tokenizer)}")

    def _open(self, name: str) -> None:
        if name == self.name:
            self._say(f"session {name} is open already")
            return
        with _as_user_error():
            self._switch(name, lambda: self._store.open(name))

    def _fork(self, name: str) -> None:
        with _as_user_error():
            self._switch(name, lambda: self._store.fork(self.name, name))

    def _clear(self) -> None:
        stem, number = re.sub(r"-\d+$", "", self.name)[:56], 2
        while self._store.exists(f"{stem}-{number}"):
            number += 1
        self._open(f"{stem}-{number}")

    def _switch(self, name: str, opened: Callable) -> None:
        """Switches to a session. Opens it first, so that a failure leaves everything as it is."""
        self.conversation.session = opened()
        before, self.name = self.name, name
        self._say_which()
        self._store.close(before)

    def _which(self) -> str:
        length = self.conversation.session.length
        return f"session {self.name} has {length:,} tokens" if length else f"session {self.name} is new"

    def _say_which(self) -> None:
        self._say(self._which() + ("" if self._store.on_disk else ", and ends with this program"))
        session = self.conversation.session
        if (document := unfinished(session)) is not None:
            more = f"/ingest {document.path or 'FILE'} reads the rest of it, anything else leaves it at that"
            self._say(f"[a process was killed here: {document.describe(session.length)}; {more}]")


def to_path(typed: str) -> Path:
    """The path that a user typed."""
    return Path(os.path.expanduser(typed))


@contextlib.contextmanager
def _as_user_error() -> Iterator[None]:
    """Turns `ValueError` (an invalid name, a budget that does not fit the memory) into `UserError`."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
