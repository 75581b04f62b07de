"""Ingestion of documents of any size into a session: reads, tokenizes and adds a file piece by piece, and displays the progress.

A file is read twice: first to check that all of it is text and fits, so that a session never gets a part of a document that
cannot be added whole; then to add it.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import math
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TextIO

import numpy as np
import torch

from mc.session.base_session import Session
from mc.session.conversation import answer_to_document, end_turns, forget_unfinished, unfinished
from mc.session.disk_tree import DiskTree
from mc.session.files import CHECKSUM, Unfinished, columns, write_unfinished
from mc.session.tree import TreeSpec
from nanochat.common import UserError, batched_by_chars, printable
from nanochat.data.chat_template import render_around
from nanochat.data.text_streams import encoding_of, open_bytes
from nanochat.data.tokenizer import Tokenizer
from nanochat.progress import ProgressDisplay
from nanochat.runtime.signals import between, held_back

QUOTA = 100_000_000  # tokens
HEADING = 1024  # tokens reserved for a document's name and the answer to it
STEP = 1 << 15  # tokens added between two refocuses, at most at once
SAVE_EVERY = 32 * STEP  # tokens added between two saves
READ_AT_ONCE = 1 << 18  # bytes: a text for one thread of the tokenizer
BATCH_CHARS = 1 << 22  # characters tokenized together
LEAST_TOKENS, LEAST_CHARS = 128, 1 << 13  # of a step whose time is limited
GROWTH = 2.0  # of a step over the one before, at most
MARGIN = 0.8  # of the time of a step: its duration is an estimate
UNCUT = 1 << 20  # characters kept waiting for a place to cut at
# No pre-token of the tokenizer spans a line end and a non-space, or a visible character and a space.
CUT = re.compile(r"(?<=\n)(?=\S)|(?<=[!-~])(?= )")
VERBS = {"check": "checking", "add": "reading"}  # of the stages, as displayed


class Progress(NamedTuple):
    """Progress of a document: `done` of `total` bytes checked, then tokens added."""

    stage: Literal["check", "add"]
    done: int
    total: int


def _no_limit() -> float:
    return math.inf


class Pace:
    """Sizes of steps, from `least` to `most`, so that each takes at most `seconds()`, estimated from the step before."""

    def __init__(self, least: int, most: int, seconds: Callable[[], float]) -> None:
        self._least, self._most, self._seconds = min(least, most), most, seconds
        self._speed, self._last = 0.0, 0.0

    def size(self) -> int:
        """The size of the next step."""
        seconds = self._seconds()
        if seconds == math.inf:
            return self._most
        return int(max(self._least, min(self._most, GROWTH * self._last, MARGIN * seconds * self._speed)))

    def took(self, size: int, seconds: float) -> None:
        """Learns from a step."""
        self._last, self._speed = size, size / max(seconds, 1e-6)


def ingest(
    session: Session,
    tokenizer: Tokenizer,
    path: Path,
    *,
    chat: bool,
    quota: int = QUOTA,
    name: str | None = None,
    lasting: bool = True,
    seconds: Callable[[], float] = _no_limit,
) -> Generator[Progress, None, None]:
    """Adds the text file at `path`, which may be packed, to `session` and yields the progress, while adding at least every `STEP` tokens.

    `seconds` returns how long the next step, between two yields, may take. Saving, now and then, is a step of its own.

    A chat model (`chat`) gets the document as a user turn, below its `name` (default: the file's), and an answer of the assistant
    that it was read; a base model gets the text alone. Special tokens spelled in the text stay text. The session is saved every
    `SAVE_EVERY` tokens and at the end. If the caller stops early, what was added stays, as a complete turn. If the process is killed,
    the session is marked (`mc.session.conversation.unfinished`); ingesting the same document next continues where it stopped.
    `lasting` is true if the file outlives the ingestion.

    Raises `UserError` before anything is added if the file cannot be read, is empty, is not UTF-8 text, is longer than `quota`
    tokens, or does not fit on the disk or into the session; and later if the file or the disk fails while adding.
    """
    name = printable(name or path.name)
    total = yield from _checked(path, tokenizer, quota, seconds)
    document = unfinished(session)
    resumed = document is not None and (yield from _continues(document, session, _reread(path, tokenizer, seconds), name, total))
    left = total - document.read(session.length) if resumed else total
    session.check_room(left + HEADING)
    _check_disk(session, left)
    before: list[int] = []
    if not resumed:
        if chat:
            end_turns(session, tokenizer)
        heading, _ = render_around(tokenizer, f"{name}\n", "", session.length == 0)
        before = heading if chat else heading[: session.length == 0]
        begin = session.length + len(before)
        document = Unfinished(name, str(path.absolute()) if lasting else None, begin, begin + total)
    session.hooks.turn_begins(session)
    begun = session.length
    try:
        if not resumed:
            if isinstance(session.tree, DiskTree):
                write_unfinished(session.tree.folder, document)
            session.append(torch.tensor(before))
        yield from _added(session, document, _reread(path, tokenizer, seconds), seconds)
    finally:
        with held_back():
            if chat and (session.length > begun or resumed):
                whole = document.read(session.length) == total
                session.append(torch.tensor(answer_to_document(tokenizer, name, whole)))
            session.save()
            forget_unfinished(session)
            session.hooks.turn_ends(session, 0)


def _checked(path: Path, tokenizer: Tokenizer, quota: int, seconds: Callable[[], float]) -> Generator[Progress, None, int]:
    """Reads the file without adding anything; returns its number of tokens. Raises `UserError` if it is not a text that may be added."""
    total = 0
    with _open(path) as file:
        size = path.stat().st_size  # what is packed is longer
        for ids in _encoded(file, path, tokenizer, seconds):
            total += len(ids)
            if total > quota:
                raise UserError(f"{path} has more than {quota:,} tokens; allow more (--ingest-quota) or give a part of it")
            yield Progress("check", min(file.tell(), size), size)
    if not total:
        raise UserError(f"{path} is empty; give a file with text")
    return total


def _added(
    session: Session, document: Unfinished, texts: Iterator[np.ndarray], seconds: Callable[[], float]
) -> Generator[Progress, None, None]:
    """Adds what is missing of `document`, whose tokens are `texts`, and saves now and then."""
    total, done, adding = document.end - document.begin, document.read(session.length), Pace(LEAST_TOKENS, STEP, seconds)
    skipped = done
    for ids in texts:
        ids, skipped = ids[skipped:], max(0, skipped - len(ids))
        unread = torch.from_numpy(ids[: total - done].astype(np.int64))
        if not len(unread):
            yield Progress("add", done, total)
        while len(unread):
            if done:  # the first step of all is a short one
                yield Progress("add", done, total)
            piece, unread = unread.tensor_split([min(adding.size(), STEP - done % STEP)])
            began, read = time.monotonic(), done + len(piece)
            # Where the focus moves does not depend on the time.
            session.append(piece, refocus=read % STEP == 0 or read == total)
            adding.took(len(piece), time.monotonic() - began)
            done = read
            if done % SAVE_EVERY == 0:
                yield Progress("add", done, total)
                session.save()
    yield Progress("add", done, total)


def _continues(
    document: Unfinished, session: Session, texts: Iterator[np.ndarray], name: str, total: int
) -> Generator[Progress, None, bool]:
    """True if `document`, which a killed process read in part, is the one with this `name` and the tokens `texts`."""
    read = document.read(session.length)
    if (document.name, document.end - document.begin) != (name, total) or session.length < document.begin:
        return False
    at = 0
    for ids in texts:
        known = min(len(ids), read - at)
        if not np.array_equal(session.tree.tokens(document.begin + at, document.begin + at + known).numpy(), ids[:known]):
            return False
        at += known
        if at == read:
            break
        yield Progress("add", at, total)
    return True


def follow(progress: Generator[Progress, None, None], name: str, stream: TextIO | None = None) -> Progress | None:
    """Displays the progress of the document `name` on `stream` (default: stderr); returns the last of it, or None if there was none.

    A Ctrl-C ends it early, between two steps.
    """
    last: Progress | None = None
    stage, begun = "", time.monotonic()
    with (
        contextlib.closing(progress),
        ProgressDisplay(stream or sys.stderr, clock="remaining") as display,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for last in between(progress):
            if last.stage != stage:
                stage = last.stage
                display.begin(f"{VERBS[stage]} {name}")
            if stage == "check":
                begun, amount = time.monotonic(), f"{last.done / 1e6:,.1f} of {last.total / 1e6:,.1f} MB"
            else:
                speed = last.done / (time.monotonic() - begun + 1e-9)
                amount = f"{last.done:,} of {last.total:,} tokens, {speed:,.0f} tokens/s"
            display.show(last.done, last.total, amount)
    return last


def is_whole(progress: Progress | None) -> bool:
    """True if all of a document was added, given its last progress."""
    return progress is not None and progress.stage == "add" and progress.done == progress.total


def check_file(path: Path) -> None:
    """Raises `UserError` unless `path` is a readable file."""
    with _open(path):
        pass


def read_text(file: BinaryIO, path: Path, at_once: Callable[[], int] = lambda: READ_AT_ONCE) -> Iterator[str]:
    """The rest of `file` as text, in pieces of `at_once()` bytes whose tokens, each encoded separately, are those of the whole text.

    Only a long text without lines and spaces is cut elsewhere. It is UTF-8, or what a byte order mark, which is left out, says.
    Raises `UserError` naming the first byte that is not text, or NUL.
    """
    head = file.read(4)
    encoding = encoding_of(head).removesuffix("-sig")
    text, offset = "", len(codecs.BOM_UTF8) * head.startswith(codecs.BOM_UTF8)
    decoder, head = codecs.getincrementaldecoder(encoding)(), head[offset:]
    while True:
        try:
            data, head = head + file.read(at_once()), b""
        except OSError as error:
            raise UserError(f"cannot read {path} from byte {offset:,} on: {error.strerror}; give a file that can be read") from error
        if encoding == "utf-8" and (nul := data.find(0)) >= 0:
            raise UserError(f"{path} is not text: byte {offset + nul:,} is NUL; give a text file in UTF-8")
        waiting = len(decoder.getstate()[0])  # bytes of a character that was cut
        try:
            new = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            where = f"see byte {offset - waiting + error.start:,}"
            raise UserError(f"{path} is not {encoding.upper()} text: {where}; convert it to UTF-8") from error
        text += new
        offset += len(data)
        end = _cut(text) if data else len(text)
        if end:
            yield text[:end]
        text = text[end:]
        if not data:
            return


def bytes_per_token(spec: TreeSpec) -> float:
    """Disk space per token, the gists of all levels included."""
    block = sum(column.size / column.every for column in columns(spec)) + CHECKSUM.itemsize
    return block / spec.geometry.block_size


def _cut(text: str) -> int:
    """The last place at which `text` can be cut; if there is none, 0, or the end of a text that is too long to wait."""
    for begin in (max(0, len(text) - 1024), 0):
        if places := [match.start() for match in CUT.finditer(text, begin)]:
            return places[-1]
    return len(text) if len(text) > UNCUT else 0


def _encoded(file: BinaryIO, path: Path, tokenizer: Tokenizer, seconds: Callable[[], float] = _no_limit) -> Iterator[np.ndarray]:
    pace = Pace(LEAST_CHARS, BATCH_CHARS, seconds)
    reading = read_text(file, path, lambda: min(pace.size(), READ_AT_ONCE))
    while True:
        began, size = time.monotonic(), pace.size()
        texts = next(batched_by_chars(reading, size), [])
        if not texts:
            return
        ids = tokenizer.encode_bulk(texts, bos=False)[0]
        pace.took(sum(map(len, texts)), time.monotonic() - began)
        yield ids


def _reread(path: Path, tokenizer: Tokenizer, seconds: Callable[[], float]) -> Iterator[np.ndarray]:
    """`_encoded` from the beginning of the file."""
    with _open(path) as file:
        yield from _encoded(file, path, tokenizer, seconds)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a regular file, unpacked. Raises `UserError` if it cannot be read."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give a text file")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a regular file; give a text file")
        opened = contextlib.ExitStack()
        file = opened.enter_context(open_bytes(path))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot read {path}: {reason}; give a text file that can be read") from error
    with opened:
        yield file


def _check_disk(session: Session, tokens: int) -> None:
    """Raises `UserError` if the disk has no room for `tokens` tokens and their gists."""
    if isinstance(session.tree, DiskTree):
        needed, free = bytes_per_token(session.tree.spec) * tokens, shutil.disk_usage(session.tree.folder).free
        if needed > free:
            where = f"{session.tree.folder.parent} has room for {free / 1e6:,.1f} MB"
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise UserError(f"{tokens:,} tokens take {needed / 1e6:,.1f} MB and {where}; free some space") from full
