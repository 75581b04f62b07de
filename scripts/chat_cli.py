"""Terminal chat with a trained model. A base model continues what is typed."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mc.loading import load_memory
from mc.session.ingest import check_file
from mc.telemetry.provider import open_telemetry
from mc.telemetry.sessions import SessionTelemetry
from nanochat.checkpoint.load_model import Stage, latest_stage, load_model, newest_tag, say_to_stderr
from nanochat.common import UserError
from nanochat.flags import flag, parse, part, run
from nanochat.infer.conversation import ChatSession, Conversation
from nanochat.infer.engine import Engine
from nanochat.infer.reply import Piece
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import ToolFlags
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.tracking.run_log import MC_SUFFIX
from scripts.shared.memory_chat import Command, MemoryChat, MemoryFlags, to_path

KEYS = "Enter sends a line; a line that ends in \\ continues on the next. Ctrl-C stops the reply, Ctrl-D or /quit ends the program."
BASE = "A base model continues what you type. "
# Text between pieces of two kinds: tool calls read `[2*3 → 6]`.
BEFORE = {("text", "python"): "[", ("python", "python_output"): " → ", ("python_output", "text"): "] ", ("python", "text"): "] "}
BEFORE |= {("python_output", "python"): "] [", ("text", "python_output"): "[→ "}


@dataclass
class ChatCli:
    """Talk to a trained model on the terminal, or get one reply."""

    prompt: str | None = flag(None, "prompt to reply to before exiting; None = read prompts", alias=("-p",))
    source: Stage | None = flag(None, "training stage of the model; None = the latest available", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the newest model", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    mc_enabled: bool = flag(False, "chat in a session that remembers everything; the model must have a memory", alias=("mc",))
    memory: MemoryFlags = part(MemoryFlags)
    sampling: Sampling = part(Sampling)
    tools: ToolFlags = part(ToolFlags)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best available")

    def __post_init__(self) -> None:
        RuntimeFlags(device_type=self.device_type)  # refuses an invalid one
        if not self.mc_enabled:
            self.memory.check_unused()


def main(argv: Sequence[str] | None = None) -> int:
    """Replies to `--prompt`, or chats; returns the exit code."""
    config = parse(ChatCli, argv)
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever the locale: the model writes any character
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))
    if config.mc_enabled:
        chat_with_memory(config, runtime)
        return 0
    stage = config.source or latest_stage(config.model_tag)
    model, tokenizer, _ = load_model(stage, config.model_tag, config.step, runtime.device, runtime.precision.dtype)
    base = stage == "base"
    tools = None if base else config.tools.open(tokenizer)
    chat = Conversation(Engine(model, tools=tools), tokenizer, config.sampling, base, warn=lambda text: print(f"[{text}]"))
    if config.prompt is not None:
        show(chat.say(config.prompt))
    elif base:
        talk(chat, {}, f"{BASE}{KEYS}\n/help shows this.")
    else:
        commands = {"clear": Command("", lambda _: chat.messages.clear()), "again": Command("", lambda _: again(chat))}
        talk(chat, commands, f"{KEYS}\n/clear forgets the conversation, /again gives another reply, /help shows this.")
    return 0


def chat_with_memory(config: ChatCli, runtime: Runtime) -> None:
    """Chats in a session. With `--prompt` nothing but the reply goes to stdout."""
    if config.memory.ingest is not None:
        check_file(to_path(config.memory.ingest))
    config.memory.telemetry.collector()  # refuses an invalid one before anything is loaded
    stage, tag = with_memory(config)
    loaded = load_memory(stage, tag, config.step, runtime.device, runtime.precision.dtype)
    base = stage == "base"
    tools = None if base else config.tools.open(loaded.tokenizer)
    say = print if config.prompt is None else say_to_stderr
    with (
        contextlib.closing(SessionTelemetry(open_telemetry(config.memory.telemetry, "megacontext-chat"))) as telemetry,
        MemoryChat(loaded, config.memory, config.sampling, base, tools, say, telemetry) as chat,
    ):
        whole = config.memory.ingest is None or chat.ingest(config.memory.ingest)
        if config.prompt is None:
            lines = [f"/{name} {command.argument}".rstrip() + f" {command.does}" for name, command in chat.commands.items()]
            talk(chat.conversation, chat.commands, "\n".join([f"{BASE if base else ''}{KEYS}", *lines, "/help shows this."]))
        elif whole:
            show(chat.conversation.say(config.prompt))
        else:
            raise KeyboardInterrupt


def with_memory(config: ChatCli) -> tuple[Stage, str | None]:
    """Stage and tag of the model; without --model-tag of the newest one with a memory, if there is any."""
    ending = "" if config.model_tag else MC_SUFFIX
    stage = config.source or latest_stage(config.model_tag, ending=ending)
    tag = config.model_tag or newest_tag(stage, ending)
    return (stage, tag) if tag else (config.source or latest_stage(), None)


def show(pieces: Iterator[Piece]) -> None:
    """Prints a reply as it comes."""
    with contextlib.closing(pieces):
        for text in shown(pieces):
            print(text, end="", flush=True)
    print(flush=True)


def shown(pieces: Iterator[Piece]) -> Iterator[str]:
    """The text of a reply, with its tool calls in brackets."""
    kind = "text"
    for piece in pieces:
        yield BEFORE.get((kind, piece.kind), "") + piece.text
        kind = piece.kind
    yield BEFORE.get((kind, "text"), "").rstrip()


def again(chat: Conversation) -> None:
    """Shows another reply to the last message."""
    if chat.messages:
        show(chat.again())
    else:
        print("there is no message to reply to yet")


def talk(chat: ChatSession, commands: Mapping[str, Command], help_text: str) -> None:
    """Chats until the end of the input."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (arrow keys edit a line and find earlier ones)
    print(help_text)
    while (line := ask()) is not None:
        try:
            if line == "/help":
                print(help_text)
            elif is_command(line, commands):
                obey(line, commands)
            elif line:
                show(chat.say(line))
        except KeyboardInterrupt:
            print("\n[stopped]")
        except UserError as error:
            print(f"error: {error}")


def is_command(line: str, commands: Mapping[str, Command]) -> bool:
    """True if a line is a command: one word after a slash, and an argument only if that command takes one."""
    name, _, argument = line.removeprefix("/").partition(" ")
    takes = name in commands and commands[name].argument
    return line.startswith("/") and re.fullmatch("[a-z]+", name) is not None and (not argument.strip() or bool(takes))


def obey(line: str, commands: Mapping[str, Command]) -> None:
    """Runs a command."""
    name, _, argument = line.removeprefix("/").partition(" ")
    if name not in commands:
        print(f"unknown command /{name}; /help lists the commands")
    elif commands[name].argument and not argument.strip():
        print(f"/{name} needs an argument: /{name} {commands[name].argument}")
    else:
        commands[name].run(argument.strip())


def ask() -> str | None:
    """The next input, None at its end. Ctrl-C discards what was typed."""
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
