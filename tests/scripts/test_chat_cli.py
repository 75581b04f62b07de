"""chat_cli on a real tiny checkpoint: completing one prompt, and a conversation on a real terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.checkpoint.load_model import load_model
from nanochat.common import UserError, printable
from nanochat.infer.engine import Engine
from nanochat.infer.reply import Piece
from nanochat.infer.sampling import Sampling
from scripts.chat_cli import main, shown, talk
from scripts.shared.memory_chat import Command
from scripts.shared.terminal import MessageReader, note
from tests.helpers.tiny_model import save_base, tiny_model, tiny_tokenizer

CTRL_C = "\x03"


@pytest.fixture
def trained(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    model, tokenizer = tiny_model(vocab_size=300), tiny_tokenizer()
    model.lm_head.weight[tokenizer.bos_id] = 0  # never the likeliest: a greedy reply does not end of itself
    save_base(base, model, tokenizer)
    return base


def test_a_prompt_is_completed_on_stdout_in_utf8(trained: Path, root: Path) -> None:
    """Also where stdout is set to another encoding, and with nothing else on it."""
    command = [sys.executable, "-m", "scripts.chat_cli", "-p", "Grüße", "--max-tokens=60", "-t", "1.5", "-k", "0", "--seed", "3"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().splitlines()[-1] == "model: base tiny, step 7"
    model, tokenizer, _ = load_model(say=lambda _: None)
    sampling = Sampling(temperature=1.5, top_k=0, seed=3, max_tokens=60)
    (completion,) = Engine(model).generate([tokenizer.encode("Grüße", bos=True)], sampling, (tokenizer.bos_id,))
    assert done.stdout.decode("utf-8") == printable(f"Grüße{tokenizer.decode(completion.said)}\n", "\n\t")
    assert "\ufffd" in tokenizer.decode(completion.said)  # random bytes: this model is no speller


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], root: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=root,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=self._take_terminal,
        )
        os.close(slave)
        self.seen = ""

    @staticmethod
    def _take_terminal() -> None:
        """So that Ctrl-C reaches it, also where these tests run in the background of a shell, which lets its children ignore it."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self, characters: int) -> None:
        """Waits until so many more are there."""
        wanted, end = len(self.seen) + characters, time.monotonic() + 60
        while len(self.seen) < wanted:
            assert time.monotonic() < end, f"there was no more than {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Waits until the program has printed `text`, and forgets what came up to there."""
        while text not in self.seen:
            self.read(1)
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_a_conversation_on_a_terminal(trained: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    terminal = Terminal([sys.executable, "-m", "scripts.chat_cli", "--max-tokens", "100000", "-t", "0"], root)
    try:
        terminal.wait_for("Ctrl-D or /quit ends the program.")
        terminal.wait_for("> ")
        terminal.type("def f(x):\\\n")
        terminal.wait_for("... ")
        terminal.type("    return\n")
        terminal.wait_for("def f(x):\r\n    return")  # the prompt is printed, then its continuation
        terminal.read(50)
        terminal.type(CTRL_C)
        terminal.wait_for("[stopped]")
        terminal.wait_for("> ")
        terminal.type("/what\n")
        terminal.wait_for("unknown command /what; /help lists the commands")
        terminal.type("/help\n")
        terminal.wait_for("Ctrl-C stops the reply")
        terminal.wait_for("> ")
        terminal.type("half a li")
        terminal.wait_for("half a li")
        time.sleep(0.3)  # a signal between the prompt and the reading is only noticed with the next key
        terminal.type(CTRL_C)  # forgets the line, stays
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_tool_calls_are_shown_in_brackets() -> None:
    calls = [("text", "I count: "), ("python", "2*3"), ("python_output", "6"), ("text", "six")]
    assert "".join(shown(Piece(*call) for call in calls)) == "I count: [2*3 → 6] six"
    assert "".join(shown(Piece(*call) for call in calls[:2])) == "I count: [2*3]"


def test_what_cannot_be_done_is_one_line(trained: Path, base: Path) -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        main(["-p", "a\udcff"])
    with pytest.raises(UserError, match="no model d99"):
        main(["-p", "a", "-g", "d99"])
    with pytest.raises(UserError, match="no model in .*sft_checkpoints; train one with python -m scripts.chat_sft"):
        main(["-p", "a", "-i", "sft"])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--unsafe-exec"], "unsafe_exec has no effect without --tools python"),
        (["-i", "x"], "invalid choice"),
        (["-t", "-1"], "temperature is -1.0"),
        (["--top-p", "2"], "top_p is 2.0"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--device-type", "tpu"], "device_type is 'tpu'"),
        (["--topp", "1"], "did you mean --top-p?"),
    ],
)
def test_a_wrong_flag_is_one_line(base: Path, wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(wrong)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and says in error and error.count("\n") == 1


class Chat:
    """Replies with the colour of every terminal there is; remembers what it was sent."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, text: str) -> Iterator[Piece]:
        self.messages.append(text)
        yield Piece("text", "\x1b]0;owned\x07red")
        yield Piece("python", "\x1b[2J")


def talked(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    """What the model was sent of the lines of a pipe."""
    chat, ran = Chat(), []
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    commands = {"open": Command("", ran.append, "NAME"), "clear": Command("", lambda _: ran.append("clear"))}
    talk(chat, MessageReader(None, note), commands, "HELP")
    return [*chat.messages, *(f"ran {name}" for name in ran)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/claer", "unknown command /claer; did you mean /clear? /help lists the commands"),
        ("/Clear", "did you mean /clear?"),
        ("/opne my notes", "did you mean /open?"),
        ("/exit", "did you mean /quit?"),
        ("/help?", "did you mean /help?"),
        ("/xyzzy plugh", "unknown command /xyzzy; /help lists the commands"),
        ("/clear all", "/clear takes no argument"),
        ("/open", "/open needs an argument: /open NAME"),
        ("/open a\\\n/clear", "/open is a command, which is one line"),
        ("/what\\\nis this", "unknown command /what;"),
    ],
)
def test_what_is_no_command_is_refused_and_not_sent(
    line: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talked(monkeypatch, line) == []
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and says in err and err.count("\n") == 1


def test_what_is_a_message_though_it_has_a_slash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    messages = ["/usr/bin is what?", "/ 2", "/2", "a /clear", "// a comment", "/* b */"]
    assert talked(monkeypatch, *messages, " /clear it", "/clear", "/open x y", "/quit", "too late") == [
        *messages, "/clear it", "ran clear", "ran x y"
    ]  # fmt: skip
    out, err = capsys.readouterr()
    assert out == 7 * "\ufffd]0;owned\ufffdred[\ufffd[2J]\n" and err == ""
