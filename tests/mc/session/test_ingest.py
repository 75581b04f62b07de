"""Documents into sessions: every token where it belongs, whatever the size; what is no text is refused and changes nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import mc.session.ingest
from mc.config import SessionConfig
from mc.session.base_session import session_spec
from mc.session.conversation import Turn
from mc.session.disk_tree import DiskTree
from mc.session.ingest import Progress, bytes_per_token, follow, ingest, is_whole, read_text
from mc.session.session import MCSession
from mc.session.store import SessionStore
from mc.session.tree import RamTree
from nanochat.common import UserError
from tests.helpers.tiny_memory import tiny_memory
from tests.helpers.tiny_model import TEXT, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = SessionConfig(mc_session_lod=3)
TURN = "<|bos|><|user_start|>{name}\n{text}<|user_end|><|assistant_start|>I have read {name}.<|assistant_end|>"


@pytest.fixture(scope="module")
def controller():
    return tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()


@pytest.fixture
def session(controller) -> MCSession:
    return MCSession(controller, RamTree(session_spec(controller, CONFIG)), CONFIG)


@pytest.fixture
def store(controller, tmp_path: Path) -> SessionStore:
    return SessionStore(controller, {"model": "x"}, SessionConfig("disk", 3), tmp_path / "sessions")


def file(folder: Path, data: bytes | str, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def shown(s: MCSession) -> str:
    return TOKENIZER.decode(s.tree.tokens(0, s.tree.length).tolist())


def read(s: MCSession, path: Path, **options) -> list[Progress]:
    return list(ingest(s, TOKENIZER, path, **({"chat": True} | options)))


def test_a_document_is_a_turn_that_is_answered(session: MCSession, tmp_path: Path) -> None:
    text = TEXT * 30 + "<|assistant_end|> is text, and so is <|user_end|>\r\n"
    news = read(session, file(tmp_path, text))
    assert shown(session) == TURN.format(name="a.txt", text=text) and session.length == session.tree.length
    special = [t for t in session.tree.tokens(0, session.length).tolist() if t >= TOKENIZER.bos_id]
    assert len(special) == 5, "what the document spells is text"
    tokens = len(TOKENIZER.encode(text))
    assert news[-1] == Progress("add", tokens, tokens) and news[0] == Progress("check", len(text.encode()), len(text.encode()))
    read(session, file(tmp_path, "More.", "b\n.txt"), name=None)
    assert shown(session).endswith(TURN.format(name="b\ufffd.txt", text="More.").removeprefix("<|bos|>"))


def test_a_base_model_is_given_the_text_alone(session: MCSession, tmp_path: Path) -> None:
    read(session, file(tmp_path, "\ufeffOne. "), chat=False)
    read(session, file(tmp_path, "Two."), chat=False)
    assert shown(session) == "<|bos|>One. Two."


PARTS = ["a", "bc ", "\n", "\n\n", "  ", " ", "東", "!", "!!\n", "\r\n", "\u3000", "\u00a0", "12", "'s", "é", "\t", "\x1c", "\x85", "🙂"]


@given(st.lists(st.sampled_from(PARTS), max_size=60).map("".join), st.integers(1, 20))
def test_pieces_are_tokenized_as_the_whole_text_would_be(text: str, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mc.session.ingest.READ_AT_ONCE", at_once)
        pieces = list(read_text(io.BytesIO(text.encode()), Path("x")))
        assert "".join(pieces) == text
        assert [i for piece in pieces for i in TOKENIZER.encode(piece)] == TOKENIZER.encode(text)
        patch.setattr("mc.session.ingest.UNCUT", 5)
        assert "".join(read_text(io.BytesIO(("\ufeff" + text).encode()), Path("x"))) == text, "where it is cut anywhere, too"


def test_a_long_document_comes_in_steps_and_is_saved_on_the_way(
    store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.session.ingest.STEP", 100)
    monkeypatch.setattr("mc.session.ingest.SAVE_EVERY", 1000)
    monkeypatch.setattr("mc.session.ingest.READ_AT_ONCE", 64)
    monkeypatch.setattr("mc.session.ingest.BATCH_CHARS", 512)
    s, saved = store.open("a"), []
    whole = MCSession.save
    monkeypatch.setattr(MCSession, "save", lambda self: (saved.append(self.length), whole(self)))
    text = "".join(random.Random(0).choices("abcd \n", k=5000))
    added = [news.done for news in read(s, file(tmp_path, text)) if news.stage == "add"]
    tokens = len(TOKENIZER.encode(text))
    assert added[-1] == tokens and max(b - a for a, b in zip([0, *added], added, strict=False)) <= 100
    assert len(saved) == tokens // 1000 + 1 and saved[-1] == s.length
    store.close_all()
    assert shown(store.open("a")) == TURN.format(name="a.txt", text=text)


BAD = {
    "missing": (None, "cannot read .*a.txt: No such file"),
    "empty": (b"", "a.txt is empty"),
    "only a mark": (b"\xef\xbb\xbf", "a.txt is empty"),
    "NUL": (b"x" * 1000 + b"\0y", "a.txt is not text: byte 1,000 is NUL"),
    "no UTF-8": ("é".encode() * 400 + b"\xff" + b"y" * 50, "a.txt is not UTF-8 text: see byte 800;"),
    "no UTF-8 behind a mark": (b"\xef\xbb\xbf" + b"x" * 98 + b"\xc3(" + b"y" * 50, "see byte 101;"),
    "cut in a character": ("é".encode() * 400 + b"\xf0\x9f", "see byte 800;"),
    "too long": (b"x \n" * 2000, "more than 1,000 tokens; allow more"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("at_once", [1 << 18, 7])
def test_what_cannot_be_read_changes_nothing(
    session: MCSession, tmp_path: Path, what: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.session.ingest.READ_AT_ONCE", at_once)
    data, match = BAD[what]
    path = tmp_path / "a.txt" if data is None else file(tmp_path, data)
    session.append(torch.tensor([TOKENIZER.bos_id, 65]))
    with pytest.raises(UserError, match=match) as error:
        read(session, path, quota=1000)
    assert "\n" not in str(error.value) and shown(session) == "<|bos|>A"


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress, bz2.compress, lambda data: zstandard.compress(data)])
def test_packed_files_and_other_encodings_are_read(session: MCSession, tmp_path: Path, packed: Any) -> None:
    suffix = {gzip.compress: ".gz", lzma.compress: ".xz", bz2.compress: ".bz2"}.get(packed, ".zst")
    text = "Grüße, 東. " * 40
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        read(session, file(tmp_path, packed(text.encode(encoding)), f"a.txt{suffix}"))
    assert shown(session) == "".join(TURN.format(name=f"a.txt{suffix}", text=text).removeprefix("<|bos|>" * (i > 0)) for i in range(4))
    before = session.length
    for data, why in ((packed(b"a" * 99)[:-9], "damaged"), (b"a", "damaged"), (packed(b"a\xff"), "not UTF-8 text: see byte 1;")):
        with pytest.raises(UserError, match=why):
            read(session, file(tmp_path, data, f"a.txt{suffix}"))
    with pytest.raises(UserError, match="not UTF-16 text"):
        read(session, file(tmp_path, "ab".encode("utf-16")[:-1]))
    with pytest.raises(UserError, match="a pointer to the file"):
        read(session, file(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"))
    assert session.length == before


def test_what_is_no_file_is_refused(session: MCSession, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, match in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is not a regular file"), (Path("a\0b"), "cannot read")):
        with pytest.raises(UserError, match=match):
            read(session, path)
    if os.getuid():  # root may read anything
        path = file(tmp_path, "x")
        path.chmod(0)
        with pytest.raises(UserError, match="Permission denied"):
            read(session, path)
    assert session.length == 0


def test_stopping_leaves_what_was_read_as_a_whole_turn(session: MCSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.session.ingest.STEP", 50)
    path = file(tmp_path, TEXT * 10)
    reading = ingest(session, TOKENIZER, path, chat=True)
    for news in reading:
        if news.done >= 200 and news.stage == "add":
            break
    reading.close()
    text = TOKENIZER.decode(TOKENIZER.encode(TEXT * 10)[:200])
    end = "<|user_end|><|assistant_start|>I have read the beginning of a.txt.<|assistant_end|>"
    assert shown(session) == f"<|bos|><|user_start|>a.txt\n{text}{end}"
    before = session.length
    reading = ingest(session, TOKENIZER, path, chat=True)
    assert next(reading).stage == "check"
    reading.close()
    assert session.length == before, "nothing had been added"


def test_a_file_that_changes_meanwhile(session: MCSession, tmp_path: Path) -> None:
    """What is added is no more than what was checked, and no less of a turn."""
    path = file(tmp_path, "abc\n" * 100)
    reading = ingest(session, TOKENIZER, path, chat=True)
    next(reading)
    path.write_bytes(b"abc\n" * 300)
    list(reading)
    assert shown(session) == TURN.format(name="a.txt", text="abc\n" * 100)
    reading = ingest(session, TOKENIZER, path, chat=True)
    next(reading)
    path.write_bytes(b"abc\n" * 50 + b"\0")
    with pytest.raises(UserError, match="byte 200 is NUL"):
        list(reading)
    assert shown(session).endswith("<|assistant_start|>I have read the beginning of a.txt.<|assistant_end|>")


def test_a_document_that_the_disk_has_no_room_for_is_not_begun(
    store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = store.open("a")
    usage = mc.session.ingest.shutil.disk_usage(tmp_path)
    monkeypatch.setattr("mc.session.ingest.shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"tokens take 0\.\d MB and .*sessions has room for 0\.0 MB; free some space"):
        read(s, file(tmp_path, TEXT * 30))
    assert s.length == 0


def test_a_document_that_is_too_long_for_the_levels_is_not_begun(session: MCSession, tmp_path: Path) -> None:
    """53 entries behind a refocus, of which 8 + 7 + 14 are recent, of an incomplete block, and of the lower levels: 24 nodes of 512."""
    text = "x\n" * 11_000
    assert len(TOKENIZER.encode(text)) == 22_000
    with pytest.raises(UserError, match=r"room for 12,288, not for 23,024; start .*--mc-session-lod above 3.*above 61"):
        read(session, file(tmp_path, text))
    assert session.length == 0
    read(session, file(tmp_path, "x\n" * 5_500))
    with pytest.raises(UserError, match="room for 1,2..,"):
        read(session, file(tmp_path, "x\n" * 1000))


def test_what_a_token_takes_of_the_disk(store: SessionStore, tmp_path: Path) -> None:
    s = store.open("a")
    read(s, file(tmp_path, TEXT * 15))
    assert isinstance(s.tree, DiskTree)
    size = sum(path.stat().st_size for path in s.tree.folder.glob("*.bin"))
    assert size == pytest.approx(bytes_per_token(s.tree.spec) * s.length, rel=0.02)


def test_a_session_that_fails_in_the_midst_says_so(store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full behind the first step: what it has stays, and a later turn ends the document's."""
    monkeypatch.setattr("mc.session.ingest.STEP", 200)
    s, whole, calls = store.open("a"), DiskTree.append, []

    def failing(self, *arguments) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise UserError("cannot add to session a: No space left on device")
        whole(self, *arguments)

    monkeypatch.setattr(DiskTree, "append", failing)
    with pytest.raises(UserError, match="No space left"):
        read(s, file(tmp_path, TEXT * 10))
    monkeypatch.undo()
    assert shown(s).startswith("<|bos|><|user_start|>a.txt\n") and 200 < s.length < 220
    read(s, file(tmp_path, "Again.", "b.txt"))
    assert shown(s).endswith(
        "<|user_end|><|assistant_start|>I have read the beginning of a.txt.<|assistant_end|>"
        + TURN.format(name="b.txt", text="Again.").removeprefix("<|bos|>")
    )


def test_progress_on_no_terminal_is_lines_now_and_then(session: MCSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.progress.EVERY_SECONDS", 0.0)
    out, tokens = io.StringIO(), len(TOKENIZER.encode(TEXT))
    last = follow(ingest(session, TOKENIZER, file(tmp_path, TEXT), chat=True), "a.txt", out)
    assert is_whole(last) and last.total == tokens
    lines = out.getvalue().splitlines()
    assert lines[0] == "checking a.txt: 0.0 of 0.0 MB" and lines[1].startswith(f"reading a.txt: {tokens:,} of {tokens:,} tokens, ")


def test_ctrl_c_ends_the_reading_between_two_steps(session: MCSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mc.session.ingest.STEP", 50)
    whole = MCSession.append

    def pressed(self, tokens, refocus=True) -> None:
        if 100 < session.length < 200 and len(tokens) == 50:
            signal.raise_signal(signal.SIGINT)
        whole(self, tokens, refocus)

    monkeypatch.setattr(MCSession, "append", pressed)
    last = follow(ingest(session, TOKENIZER, file(tmp_path, TEXT * 10), chat=True), "a.txt", io.StringIO())
    assert not is_whole(last) and last.stage == "add" and 50 <= last.done < 250
    assert shown(session).endswith("I have read the beginning of a.txt.<|assistant_end|>")


MEMORY = """
import resource, sys
from pathlib import Path
from mc.session.ingest import read_text
from tests.helpers.tiny_model import tiny_tokenizer
import mc.session.ingest
tokenizer = tiny_tokenizer()
path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(path, "rb") as file:
    tokens = sum(len(ids) for ids in mc.session.ingest._encoded(file, path, tokenizer))
print(tokens, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_reading_takes_little_memory_whatever_the_size(tmp_path: Path, root: Path) -> None:
    path = file(tmp_path, (TEXT * 4000) * 8)  # about 7 MB
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], cwd=root, capture_output=True, text=True, check=True)
    tokens, mib = map(float, done.stdout.split())
    assert tokens > 2e6 and mib < 120


def test_a_document_that_was_not_begun_has_no_end(session: MCSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = MCSession.append, []

    def interrupted(self, tokens) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        whole(self, tokens)

    monkeypatch.setattr(MCSession, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(session, file(tmp_path, TEXT))
    assert session.length == 0


KILLED = """
import os, sys
from pathlib import Path
import mc.session.ingest
from tests.mc.session.test_ingest import CONFIG, TOKENIZER, SessionStore, SessionConfig, tiny_memory
mc.session.ingest.STEP, root, path, chat = 64, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "chat"
memory = tiny_memory(model={"vocab_size": 300}).requires_grad_(False).eval()
session = SessionStore(memory, {"model": "x"}, SessionConfig("disk", 3), root).open("a")
for news in mc.session.ingest.ingest(session, TOKENIZER, path, chat=chat):
    if news.stage == "add" and news.done >= 512:
        os.kill(os.getpid(), 9)
"""


def killed(root: Path, store: SessionStore, path: Path, chat: bool = True) -> None:
    """A process that is killed while it reads `path` into session a."""
    arguments = [sys.executable, "-c", KILLED, str(store.root), str(path), "chat" if chat else "base"]
    assert subprocess.run(arguments, cwd=root, capture_output=True, text=True).returncode == -9


@pytest.mark.parametrize("chat", [True, False])
def test_a_document_of_a_killed_process_is_marked_and_continued(store: SessionStore, tmp_path: Path, root: Path, chat: bool) -> None:
    path = file(tmp_path, TEXT * 20)
    killed(root, store, path, chat)
    (info,) = store.list()
    assert info.unfinished is not None and info.unfinished.path == str(path)
    total = len(TOKENIZER.encode(TEXT * 20))
    assert info.unfinished.describe(info.tokens) == f"{info.unfinished.read(info.tokens):,} of {total:,} tokens of a.txt were read"
    s = store.open("a")
    assert 400 < info.unfinished.read(s.length) < 600
    fork = store.fork("a", "b")
    for each in (s, fork):
        added = [news.done for news in read(each, path, chat=chat) if news.stage == "add"]
        assert added[0] > 400 and added[-1] == total
        assert shown(each) == (TURN.format(name="a.txt", text=TEXT * 20) if chat else f"<|bos|>{TEXT * 20}"), "as if nothing had happened"
    assert [info.unfinished for info in store.list()] == [None, None]


def test_what_else_may_follow_a_document_of_a_killed_process(store: SessionStore, tmp_path: Path, root: Path) -> None:
    path = file(tmp_path, TEXT * 20)
    killed(root, store, path)
    end = "<|user_end|><|assistant_start|>I have read the beginning of a.txt.<|assistant_end|>"
    s = store.open("a")
    turn = Turn(store.fork("a", "b"), TOKENIZER, [TOKENIZER.bos_id])
    turn.close()
    assert end in shown(store._open["b"])
    path.write_text("Other. " + TEXT * 20)
    read(s, path)
    assert shown(s).count(end) == 1 and shown(s).endswith("I have read a.txt.<|assistant_end|>")
    assert [info.unfinished for info in store.list()] == [None, None]
