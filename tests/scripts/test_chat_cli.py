"""chat_cli on a real tiny checkpoint: completing one prompt, and a conversation on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.common import UserError
from nanochat.engine import Engine
from nanochat.loading import load_model
from nanochat.sampling import Sampling
from nanochat.tokenizer import Tokenizer
from scripts.chat_cli import Chat, main
from tests.nanochat.tiny_model import save_base, tiny_model, tiny_tokenizer

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
    assert done.stdout.decode("utf-8") == f"Grüße{tokenizer.decode(completion.tokens)}\n"
    assert "\ufffd" in tokenizer.decode(completion.tokens)  # random bytes: this model is no speller


def test_pieces_are_whole_characters_and_join_to_the_text(trained: Path) -> None:
    model, tokenizer, _ = load_model(say=lambda _: None)
    sampling = Sampling(temperature=0, max_tokens=50)
    (completion,) = Engine(model).generate([tokenizer.encode("a", bos=True)], sampling, (tokenizer.bos_id,))
    assert "".join(Chat(Engine(model), tokenizer, sampling, base=True).say("a")) == "a" + tokenizer.decode(completion.tokens)


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
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
        )
        os.close(slave)
        self.seen = ""

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
        terminal.wait_for("/what is no command here; /help lists them")
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


class Parrot:
    """Stands for a model that says what it was told to: an engine whose tokens are a script."""

    def __init__(self, tokenizer: Tokenizer, *replies: str) -> None:
        self.model, self.prompts = tiny_model(vocab_size=tokenizer.vocab_size), []
        self.tokenizer, self.replies = tokenizer, list(replies)

    def stream(self, prompts: list[list[int]], sampling: Sampling, stop: tuple[int, ...]) -> Iterator[tuple[int]]:
        self.prompts.append(self.tokenizer.decode(prompts[0]))
        pieces = re.split(r"(<\|\w+\|>)", self.replies.pop(0))
        for piece in pieces:
            yield from (
                (token,) for token in ([self.tokenizer.special_tokens[piece]] if piece[:2] == "<|" else self.tokenizer.encode(piece))
            )
        yield (stop[0],)


def test_a_chat_remembers_its_turns_with_their_tool_calls() -> None:
    tokenizer = tiny_tokenizer()
    called = "I count: <|python_start|>2*3<|python_end|><|output_start|>6<|output_end|>six"
    engine = Parrot(tokenizer, called, "Bye.", "See you.")
    chat = Chat(engine, tokenizer, Sampling(), base=False)
    assert "".join(chat.say("How much?")) == "I count: [2*3 → 6] six"
    assert "".join(chat.say("Thanks")).endswith("Bye.")
    turns = "<|bos|><|user_start|>{}<|user_end|><|assistant_start|>"
    assert engine.prompts[0] == turns.format("How much?")
    assert engine.prompts[1] == engine.prompts[0] + called + "<|assistant_end|>" + turns.format("Thanks").removeprefix("<|bos|>")
    assert "".join(chat.again()).endswith("See you.") and engine.prompts[2] == engine.prompts[1]
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "user", "assistant"]
    assert chat.messages[-1]["content"] == [{"type": "text", "text": "See you."}]


def test_a_reply_that_is_stopped_stays_in_the_conversation() -> None:
    tokenizer = tiny_tokenizer()
    chat = Chat(Parrot(tokenizer, "one two three", "four"), tokenizer, Sampling(), base=False)
    reply = chat.say("count")
    for _ in range(9):
        next(reply)
    reply.close()
    assert chat.messages[-1]["role"] == "assistant" and chat.messages[-1]["content"][0]["text"].startswith("one")
    list(chat.say("go on"))


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
