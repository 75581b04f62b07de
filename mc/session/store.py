"""Store of the sessions of one model by name, in files under `sessions/` or in this process only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mc.config import SessionConfig
from mc.memory_model import MemoryModel
from mc.session.base_session import Session, session_spec
from mc.session.budget import session_budget
from mc.session.disk_tree import DiskTree
from mc.session.files import (
    MANIFEST,
    SessionInfo,
    check_same,
    delete_session,
    list_sessions,
    read_header,
    read_unfinished,
    valid_name,
    write_unfinished,
)
from mc.session.hooks import SessionHooks, no_hooks
from mc.session.session import start_session
from mc.session.tree import MegaContextTree, RamTree
from mc.session.tree_builder import PIECE
from nanochat.common import UserError, base_dir

FOCUS = "focus.json"  # in a session's folder: its Working Context's layout


class SessionStore:
    """Opens, forks and deletes sessions of `memory`. `identity` names its weights and tokenizer: see `LoadedMemory`.

    A session is open only once at a time, in one process. `root` is by default `sessions` in the base folder; `watch` returns the
    hooks of a session by its name. Raises `ValueError` if `config` leaves too little for a Working Context.
    """

    def __init__(
        self,
        memory: MemoryModel,
        identity: Mapping[str, str],
        config: SessionConfig,
        root: Path | None = None,
        watch: Callable[[str], SessionHooks] = no_hooks,
    ) -> None:
        self.memory, self.identity, self.config = memory, identity, config
        self.root = root or base_dir() / "sessions"
        self.spec, self._watch = session_spec(memory, config), watch
        session_budget(memory, config)  # raises before there is half a session
        self._open: dict[str, Session] = {}
        self._kept: dict[str, RamTree] = {}  # of sessions in this process, including closed ones

    @property
    def on_disk(self) -> bool:
        """True if sessions outlive the process."""
        return self.config.mc_tree == "disk"

    def exists(self, name: str) -> bool:
        """True if a session of that name exists. Raises `ValueError` for an invalid name."""
        folder = self.root / valid_name(name)
        return (folder / MANIFEST).exists() if self.on_disk else name in self._kept

    def open(self, name: str, repair: bool = False) -> Session:
        """Opens the session `name`, or creates it.

        Raises `ValueError` for an invalid name, and `UserError` if the session is open, belongs to another model or is damaged; with
        `repair` a damaged one is cut at its last good block.
        """
        if valid_name(name) in self._open:
            raise UserError(f"session {name} is in use; close it there first, or fork it")
        tree: MegaContextTree
        if self.on_disk:
            folder = self.root / name
            tree = (
                DiskTree.open(folder, self.identity, repair, self.spec)
                if self.exists(name)
                else DiskTree.create(folder, self.identity, self.spec)
            )
        else:
            tree = self._kept.setdefault(name, RamTree(self.spec, self.memory.device))
        return self._started(name, tree)

    def fork(self, name: str, new_name: str) -> Session:
        """Opens a copy `new_name` of the open session `name`, including its focus.

        Raises `ValueError` for an invalid name or if `name` is not open, `UserError` if `new_name` is taken.
        """
        if name not in self._open:
            raise ValueError(f"session {name} is not open")
        if self.exists(new_name) or new_name in self._open:
            raise UserError(f"session {new_name} already exists; give another name")
        session = self._open[name]
        session.save()
        if isinstance(session.tree, DiskTree):
            tree: MegaContextTree = session.tree.fork(self.root / new_name)
            write_unfinished(self.root / new_name, read_unfinished(self.root / name))
        else:
            assert isinstance(session.tree, RamTree)
            tree = self._kept[new_name] = session.tree.copy()
        return self._started(new_name, tree, session.focused())

    def regist(self, name: str, new_name: str) -> Session:
        """Opens a new session `new_name` that has read the tokens of session `name`, whatever model or kind of gists that one has.

        Raises `ValueError` for an invalid name; `UserError` if `new_name` is taken, if the tokens are of another tokenizer, or if
        there is no session `name` on disk.
        """
        if self.exists(new_name) or new_name in self._open:
            raise UserError(f"session {new_name} already exists; give another name")
        folder = self.root / valid_name(name)
        theirs = read_header(folder).manifest
        check_same(name, {"tokenizer": theirs.get("tokenizer")}, {"tokenizer": self.identity.get("tokenizer")})
        with contextlib.closing(DiskTree.open(folder, theirs)) as old, contextlib.ExitStack() as undo:
            session = self.open(new_name)
            undo.callback(self.delete, new_name)  # nothing is left of half a history
            undo.callback(self.close, new_name)
            session.check_room(old.length)
            for begin in range(0, old.length, PIECE):
                session.append(old.tokens(begin, min(begin + PIECE, old.length)))
            session.save()
            undo.pop_all()
        return session

    def close(self, name: str) -> None:
        """Saves and closes the open session `name`; one in RAM can be opened again as long as the process lives."""
        self._open.pop(name).close()

    def close_all(self) -> None:
        """Closes every session."""
        for name in list(self._open):
            self.close(name)

    def delete(self, name: str) -> None:
        """Deletes a session. Raises `UserError` if it is open or does not exist."""
        if valid_name(name) in self._open:
            raise UserError(f"session {name} is in use; close it there first")
        if self.on_disk:
            delete_session(self.root, name)
        elif self._kept.pop(name, None) is None:
            raise UserError(f"no session {name}; nothing was deleted")

    def list(self) -> list[SessionInfo]:
        """Lists sessions, the one written last first; sizes and times of sessions in RAM are unknown: 0."""
        if self.on_disk:
            return list_sessions(self.root)
        return [SessionInfo(name, tree.length, 0, 0.0, dict(self.identity)) for name, tree in self._kept.items()]

    def _started(self, name: str, tree: MegaContextTree, focus: dict[str, Any] | None = None) -> Session:
        with contextlib.ExitStack() as undo:
            undo.callback(tree.close)  # releases the lock
            file = self.root / name / FOCUS if self.on_disk else None
            session = start_session(self.memory, tree, self.config, file=file, hooks=self._watch(name), focus=focus)
            undo.pop_all()
        self._open[name] = session
        return session
