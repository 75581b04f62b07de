"""The terminal of a chat: pasted texts, the history of earlier runs, pipes, and what never reaches a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from scripts.shared.terminal import MessageReader, note, put
from tests.scripts.test_chat_cli import Terminal

READ = """
import sys
from pathlib import Path
from scripts.shared.terminal import MessageReader, put
reader = MessageReader(Path(sys.argv[1]) if sys.argv[1:] else None, print)
while (message := reader.next()) is not None:
    print(f"<{message!r}>", flush=True)
"""


def reader(root: Path, *history: Path, monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> Terminal:
    monkeypatch.setenv("TERM", term)
    terminal = Terminal([sys.executable, "-c", READ, *map(str, history)], root)
    terminal.wait_for("> ")
    return terminal


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_pasted_text_is_one_message(root: Path, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    terminal = reader(root, monkeypatch=monkeypatch, term=term)
    try:
        if term == "xterm":  # such terminals say what is pasted
            terminal.type("see \x1b[200~def f():\n\n    pass\\\nend\n\x1b[201~")
            terminal.wait_for("end")
            terminal.type("\n")
            terminal.wait_for(r"<'see def f():\n\n    pass\\\nend'>")
            terminal.wait_for("> ")
        terminal.type("one\ntwo\n\nthree\n")
        terminal.wait_for(r"<'one\ntwo\n\nthree'>")
        terminal.wait_for("> ")
        terminal.type("typed\\\n")
        terminal.wait_for("... ")
        terminal.type("more\n")
        terminal.wait_for(r"<'typed\nmore'>")
    finally:
        terminal.close()


def test_the_history_outlives_the_program_and_is_its_owner_s(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = tmp_path / "base" / "history"
    for messages in (["first"], ["two\nlines"]):
        terminal = reader(root, history, monkeypatch=monkeypatch)
        try:
            terminal.type(messages[0] + "\n")
            terminal.wait_for(f"<{messages[0]!r}>")
        finally:
            terminal.close()  # killed: what was typed is there nevertheless
        assert history.stat().st_mode & 0o777 == 0o600
        history.chmod(0o644)
    assert [json.loads(line) for line in history.read_text().splitlines()] == ["first", "two\nlines"]
    history.write_text(history.read_text() + '"cut')
    terminal = reader(root, history, monkeypatch=monkeypatch)
    try:
        terminal.type("\x1b[A\n")
        terminal.wait_for(r"<'two\nlines'>")
        terminal.type("\x1b[A\x1b[A\n")
        terminal.wait_for("<'first'>")
    finally:
        terminal.close()
    assert [json.loads(line) for line in history.read_text().splitlines()] == ["first", "two\nlines", "first"]
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_pipe_gives_a_message_a_line_and_leaves_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\\\nlines\n\nlast\\\n"))
    messages = MessageReader(tmp_path / "history", note)
    assert list(iter(messages.next, None)) == ["one", "two\nlines", "", "last"]
    assert capsys.readouterr() == ("", "") and not (tmp_path / "history").exists()


def test_nothing_that_controls_a_terminal_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;title\x07 \x1b]52;c;aGk=\x1b\\ \x1b[2J \x9b2J \r \b \x7f \u202e \u2066 \ue000"
    put(hostile)
    note(hostile)
    for text in capsys.readouterr():
        assert {c for c in text if not c.isprintable()} == {"\n"} and "]0;title" in text
    kept = "a\tb\nnaïve 東京 \u3000\u00a0 👩\u200d👩 می\u200cخواهم"
    put(kept, end="")
    assert capsys.readouterr().out == kept
