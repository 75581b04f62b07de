"""Talks to a trained model on a terminal. A base model continues what is typed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.chat_format import render_prompt
from nanochat.common import UserError
from nanochat.engine import Engine
from nanochat.flags import flag, parse, part, run
from nanochat.loading import Stage, latest_stage, load_model
from nanochat.reply import Piece, Reply, joined, stop_tokens
from nanochat.runtime import RuntimeFlags, start
from nanochat.sampling import Sampling
from nanochat.tokenizer import Tokenizer
from nanochat.tools import ToolFlags

KEYS = "Enter sends a line; a line that ends in \\ goes on in the next. Ctrl-C stops the reply, Ctrl-D or /quit ends the program."
HELP = {
    "base": f"A base model continues what you type. {KEYS}\n/help shows this.",
    "chat": f"{KEYS}\n/clear forgets the conversation, /again asks for another reply, /help shows this.",
}
# What stands before a piece of another kind than the last: tool calls read `[2*3 → 6]`.
BEFORE = {("text", "python"): "[", ("python", "python_output"): " → ", ("python_output", "text"): "] ", ("python", "text"): "] "}
BEFORE |= {("python_output", "python"): "] [", ("text", "python_output"): "[→ "}


@dataclass
class ChatCli:
    """Talk to a trained model on the terminal, or get one reply."""

    prompt: str | None = flag(None, "reply to this and exit; None = ask for prompts", alias=("-p",))
    source: Stage | None = flag(None, "which training stage's model; None = the latest there is", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the model written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    sampling: Sampling = part(Sampling)
    tools: ToolFlags = part(ToolFlags)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best this machine has")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # refuses a wrong one


@dataclass
class Chat:
    """A conversation with a model; a base model has none and continues each text on its own."""

    engine: Engine
    tokenizer: Tokenizer
    sampling: Sampling
    base: bool
    messages: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> Iterator[str]:
        """What the model makes of `text`, in pieces. Raises `UserError` where the text is not UTF-8."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"the prompt is not UTF-8 (character {error.start + 1}); type or pass it in UTF-8") from error
        if self.base:
            yield text
            yield from (piece.text for piece in self._pieces(self.tokenizer.encode(text, bos=True)))
        else:
            self.messages.append({"role": "user", "content": text})
            yield from self._reply()

    def again(self) -> Iterator[str]:
        """Another reply to what was said last."""
        if self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        self.sampling.seed += 1
        yield from self._reply()

    def _reply(self) -> Iterator[str]:
        prompt = render_prompt(self.tokenizer, {"messages": self.messages})
        longest, kind = self.engine.model.config.max_seq_len, "text"
        if len(prompt) >= longest:
            yield f"[the conversation is longer than the {longest} tokens that the model was trained on; /clear starts anew]\n"
        content: list[Piece] = []
        try:
            for piece in self._pieces(prompt):
                yield BEFORE.get((kind, piece.kind), "") + piece.text
                kind = piece.kind
                content.append(piece)
        finally:  # a reply that was stopped is what was said, too
            self.messages.append({"role": "assistant", "content": [{"type": piece.kind, "text": piece.text} for piece in joined(content)]})
        yield BEFORE.get((kind, "text"), "").rstrip()

    def _pieces(self, prompt: list[int]) -> Iterator[Piece]:
        stop, reply = (self.tokenizer.bos_id,) if self.base else stop_tokens(self.tokenizer), Reply(self.tokenizer)
        for (token,) in self.engine.stream([prompt], self.sampling, stop):
            if token not in stop:
                yield from reply.feed(token)
        yield from reply.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Gives one reply, or one after the other; returns the exit code."""
    config = parse(ChatCli, argv)
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: the model writes any character
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))
    stage = config.source or latest_stage(config.model_tag)
    model, tokenizer, _ = load_model(stage, config.model_tag, config.step, runtime.device, runtime.precision.dtype)
    base = stage == "base"
    tools = None if base else config.tools.open(tokenizer)
    chat = Chat(Engine(model, tools=tools), tokenizer, config.sampling, base)
    if config.prompt is not None:
        show(chat.say(config.prompt))
    else:
        talk(chat)
    return 0


def show(pieces: Iterator[str]) -> None:
    """Prints a reply as it comes."""
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def talk(chat: Chat) -> None:
    """Reads what the user says until there is no more."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (arrow keys edit a line and find earlier ones)
    help_text = HELP["base" if chat.base else "chat"]
    print(help_text)
    while (line := ask()) is not None:
        try:
            if line == "/help":
                print(help_text)
            elif line == "/clear" and not chat.base:
                chat.messages.clear()
            elif line == "/again" and chat.messages:
                show(chat.again())
            elif re.fullmatch(r"/[a-z]+", line):
                print(f"{line} is no command here; /help lists them")
            elif line:
                show(chat.say(line))
        except KeyboardInterrupt:
            print("\n[stopped]")
        except UserError as error:
            print(f"error: {error}")


def ask() -> str | None:
    """What the user says next; None when there is no more. Ctrl-C forgets what was typed."""
    lines: list[str] = []
    while True:
        try:
            line = input("... " if lines else "> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            lines = []
            continue
        if not lines and line.strip() == "/quit":
            return None
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines)


if __name__ == "__main__":
    run(main)
