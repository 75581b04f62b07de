"""Terminal of a chat: reads messages from a user or a pipe, keeps their history, and shows text without control characters."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nanochat.common import printable

MESSAGES_KEPT = 1000  # of the history, when a program starts
PASTE_SECONDS = 0.05  # lines that follow one another faster were pasted, not typed


def put(text: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Prints text of any origin at once, on stdout unless a `stream` is given. Its control characters do not reach the terminal."""
    print(printable(text, "\n\t"), end=end, file=stream or sys.stdout, flush=True)


def note(text: str) -> None:
    """Prints a message that is no reply, on stderr."""
    put(text, stream=sys.stderr)


class MessageReader:
    """Reads the messages of a user. On a terminal, arrow keys find those of earlier runs in the file `history` (None: of this run).

    From a pipe each line is a message, and nothing is printed. `say` prints why there is no history.
    """

    def __init__(self, history: Path | None, say: Callable[[str], None]) -> None:
        self.interactive = sys.stdin.isatty()
        self._history, self._say = history, say
        if self.interactive:
            import readline

            readline.set_auto_history(False)
            self._readline = readline
            for message in self._remembered():
                readline.add_history(message)

    def next(self) -> str | None:
        """The next message, None at the end. A line that ends in a backslash goes on in the next one, as does a pasted text.

        Ctrl-C discards what was typed on a terminal.
        """
        lines: list[str] = []
        typed_ahead = self.interactive and _is_waiting(0)
        while True:
            try:
                line = input(("... " if lines else "> ") if self.interactive else "")
                while self.interactive and not typed_ahead and _is_waiting(PASTE_SECONDS):
                    line += "\n" + input()
            except EOFError:
                if self.interactive:
                    print()
                    return None
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                print()
                lines = []
                continue
            lines.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                message = "\n".join(lines).rstrip("\n")
                self._remember(message)
                return message

    def _remembered(self) -> list[str]:
        """Messages of earlier runs, at most `MESSAGES_KEPT`; the file is cut to these."""
        messages: list[str] = []
        if self._history is None:
            return messages
        try:
            with open(self._history, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
        except FileNotFoundError:
            return messages
        except OSError as error:
            self._give_up(error)
            return messages
        for line in lines[-MESSAGES_KEPT:]:
            with contextlib.suppress(ValueError):  # cut by a full disk
                if isinstance(message := json.loads(line), str):
                    messages.append(message)
        if lost := min(len(lines), MESSAGES_KEPT) - len(messages):
            self._say(f"[{lost} damaged lines of {self._history} were left out]")
        if len(lines) > MESSAGES_KEPT or lost:
            self._write(messages, os.O_TRUNC)
        return messages

    def _remember(self, message: str) -> None:
        if self.interactive and message.strip():
            number = self._readline.get_current_history_length()
            if number == 0 or self._readline.get_history_item(number) != message:
                self._readline.add_history(message)
                self._write([message], os.O_APPEND)

    def _write(self, messages: list[str], how: int) -> None:
        """Writes to the history, which only its owner may read."""
        if self._history is None:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._history, os.O_WRONLY | os.O_CREAT | how, 0o600)
            with open(file, "w", encoding="utf-8") as stream:
                os.fchmod(file, 0o600)
                stream.write("".join(json.dumps(message) + "\n" for message in messages))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._say(f"[what is typed is not kept: {self._history}: {error.strerror}; --history 0 turns this off]")
        self._history = None


def _is_waiting(seconds: float) -> bool:
    """True if there is input, or will be within `seconds`."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])
