"""Terminal chat with a trained model. A base model continues what is typed."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mc.loading import load_memory
from mc.session.ingest import check_file
from mc.telemetry.provider import open_telemetry
from mc.telemetry.sessions import SessionTelemetry
from nanochat.checkpoint.load_model import Stage, latest_stage, load_model, newest_tag
from nanochat.common import UserError, base_dir
from nanochat.flags import flag, parse, part, run
from nanochat.infer.conversation import ChatSession, Conversation
from nanochat.infer.engine import Engine
from nanochat.infer.reply import Piece
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import ToolFlags
from nanochat.runtime.device import Runtime, RuntimeFlags, start
from nanochat.tracking.run_log import MC_SUFFIX
from scripts.shared.memory_chat import Command, MemoryChat, MemoryFlags, to_path
from scripts.shared.terminal import MessageReader, note, put

KEYS = """Enter sends a line; a line that ends in \\ continues on the next. Ctrl-C stops the reply, Ctrl-D or /quit ends the program.
A line that begins with / is a command; put a space before it to send it as a message."""
HISTORY = "chat_history"  # in the base folder: what was typed in earlier runs
COMMAND = re.compile(r"/([^\W\d_][^\s/]*)(?:\s+(.*))?", re.DOTALL)  # not a path, as /tmp/a is
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
    history: bool = flag(True, f"keep what is typed on a terminal for later runs, in {HISTORY} of the base folder")
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
    reader = MessageReader(base_dir() / HISTORY if config.history else None, note)
    say = put if reader.interactive and config.prompt is None else note
    chat = Conversation(Engine(model, tools=tools), tokenizer, config.sampling, base, warn=lambda text: say(f"[{text}]"))
    if config.prompt is not None:
        show(chat.say(config.prompt))
    elif base:
        talk(chat, reader, {}, f"{BASE}{KEYS}\n/help shows this.")
    else:
        commands = {"clear": Command("", lambda _: chat.messages.clear()), "again": Command("", lambda _: again(chat))}
        talk(chat, reader, commands, f"{KEYS}\n/clear forgets the conversation, /again gives another reply, /help shows this.")
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
    reader = MessageReader(base_dir() / HISTORY if config.history else None, note)
    say = put if reader.interactive and config.prompt is None else note
    with (
        contextlib.closing(SessionTelemetry(open_telemetry(config.memory.telemetry, "megacontext-chat"))) as telemetry,
        MemoryChat(loaded, config.memory, config.sampling, base, tools, say, telemetry) as chat,
    ):
        whole = config.memory.ingest is None or chat.ingest(config.memory.ingest)
        if config.prompt is None:
            lines = [f"/{name} {command.argument}".rstrip() + f" {command.does}" for name, command in chat.commands.items()]
            talk(chat.conversation, reader, chat.commands, "\n".join([f"{BASE if base else ''}{KEYS}", *lines, "/help shows this."]))
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
            put(text, end="")
    put("")


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
        raise UserError("there is no message to reply to yet")


def talk(chat: ChatSession, reader: MessageReader, commands: Mapping[str, Command], help_text: str) -> None:
    """Chats until the end of the input. From a pipe, nothing but replies and what commands show goes to stdout."""
    say = put if reader.interactive else note
    commands = {**commands, "help": Command("", lambda _: put(help_text))}
    if reader.interactive:
        put(help_text)
    while (message := reader.next()) is not None and message.strip() != "/quit":
        try:
            if (typed := COMMAND.fullmatch(message)) is not None:
                obey(typed[1], typed[2] or "", commands)
            elif message.strip():
                show(chat.say(message.removeprefix(" ") if COMMAND.fullmatch(message.lstrip(" ")) else message))
        except KeyboardInterrupt:
            say("\n[stopped]")
        except UserError as error:
            say(f"error: {error}")


def obey(name: str, argument: str, commands: Mapping[str, Command]) -> None:
    """Runs a command. Raises `UserError` unless it exists and has the argument that it needs."""
    argument = argument.strip()
    if name not in commands:
        nearest = difflib.get_close_matches(name.lower(), [*commands, "quit"], n=1, cutoff=0.5)
        hint = f"did you mean /{nearest[0]}? " if nearest else ""
        raise UserError(f"unknown command /{name}; {hint}/help lists the commands, a space before the / sends a message")
    if "\n" in argument:
        raise UserError(f"/{name} is a command, which is one line; put a space before it to send these lines as a message")
    if argument and not commands[name].argument:
        raise UserError(f"/{name} takes no argument; put a space before it to send this line as a message")
    if commands[name].argument and not argument:
        raise UserError(f"/{name} needs an argument: /{name} {commands[name].argument}")
    commands[name].run(argument)


if __name__ == "__main__":
    run(main)
