"""Talks to a trained model on a terminal. A base model continues what is typed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanochat.common import UserError
from nanochat.engine import Engine
from nanochat.flags import flag, parse, part, run
from nanochat.loading import Stage, load_model
from nanochat.runtime import RuntimeFlags, start
from nanochat.sampling import Sampling
from nanochat.text_stream import TextStream
from nanochat.tokenizer import Tokenizer

HELP = """A base model continues what you type. Enter sends a line; a line that ends in \\ goes on in the next.
Ctrl-C stops the reply. /help shows this, /quit or Ctrl-D ends the program."""


@dataclass
class ChatCli:
    """Talk to a trained model on the terminal, or complete one prompt."""

    prompt: str | None = flag(None, "complete this and exit; None = ask for prompts", alias=("-p",))
    source: Stage = flag("base", "which training stage's model", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the model written last", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    sampling: Sampling = part(Sampling)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best this machine has")

    def __post_init__(self) -> None:
        if self.source != "base":
            raise ValueError(f"source (-i) is {self.source}, but there is no {self.source} stage in this version; use base")
        RuntimeFlags(device_type=self.device_type)  # refuses a wrong one


def main(argv: Sequence[str] | None = None) -> int:
    """Completes one prompt, or one after the other; returns the exit code."""
    config = parse(ChatCli, argv)
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: the model writes any character
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))
    model, tokenizer, _ = load_model(config.source, config.model_tag, config.step, runtime.device, runtime.precision.dtype)
    engine = Engine(model)
    if config.prompt is not None:
        reply(engine, tokenizer, config.prompt, config.sampling)
    else:
        talk(engine, tokenizer, config.sampling)
    return 0


def reply(engine: Engine, tokenizer: Tokenizer, prompt: str, sampling: Sampling) -> None:
    """Prints the prompt and its continuation as it comes. Raises `UserError` where the prompt is not UTF-8."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt is not UTF-8 (character {error.start + 1}); type or pass it in UTF-8") from error
    print(prompt, end="", flush=True)
    for piece in complete(engine, tokenizer, prompt, sampling):
        print(piece, end="", flush=True)
    print(flush=True)


def complete(engine: Engine, tokenizer: Tokenizer, prompt: str, sampling: Sampling) -> Iterator[str]:
    """The continuation of `prompt` in pieces of whole characters, up to where the model ends the document."""
    text = TextStream(tokenizer)
    for (token,) in engine.stream([tokenizer.encode(prompt, bos=True)], sampling, stop=(tokenizer.bos_id,)):
        if token != tokenizer.bos_id:
            yield text.feed(token)
    yield text.close()


def talk(engine: Engine, tokenizer: Tokenizer, sampling: Sampling) -> None:
    """Reads prompts until there are no more."""
    print(HELP)
    while (prompt := ask()) is not None:
        if prompt == "/help":
            print(HELP)
        elif re.fullmatch(r"/[a-z]+", prompt):
            print(f"{prompt} is no command; there are /help and /quit")
        elif prompt:
            try:
                reply(engine, tokenizer, prompt, sampling)
            except KeyboardInterrupt:
                print("\n[stopped]")
            except UserError as error:
                print(f"error: {error}")


def ask() -> str | None:
    """The next prompt; None when there is none. Ctrl-C forgets what was typed."""
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
