"""Compatibility with clients that were made for other servers: unknown parameters, other names of the model, pages of other sites."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nanochat.flags import flag

IGNORED_HEADER = "x-ignored-parameters"
MAX_NAMES = 100  # that are logged, in all
HEADER_NAMES = 20
NAME_CHARACTERS = 60


@dataclass
class ClientFlags:
    """Flags for clients that were made for other servers."""

    lenient: bool = flag(True, "ignore unknown parameters; they are named in the answer's header X-Ignored-Parameters and once in the log")
    aliases: str = flag("", "other names that the model is asked for by, separated by commas; * = any")
    cors_origins: str = flag("", "sites whose pages may use the server, separated by commas, as in http://localhost:3000")

    def __post_init__(self) -> None:
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}".lower():
                raise ValueError(f"invalid cors_origins {origin!r}: expected scheme and host, as in http://localhost:3000")

    @property
    def origins(self) -> list[str]:
        """The sites whose pages may use the server."""
        return _names(self.cors_origins)

    @property
    def names(self) -> list[str]:
        """The other names of the model that can be listed."""
        return [name for name in _names(self.aliases) if name != "*"]

    def means(self, asked: str | None, model: str) -> bool:
        """True if a request for the model `asked` is for `model`."""
        return asked in (None, model) or asked in _names(self.aliases) or "*" in _names(self.aliases)


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


@dataclass
class IgnoredNames:
    """The parameters that have been ignored so far; each is logged once."""

    _logged: set[str] = field(default_factory=set)

    def headers(self, names: Sequence[str]) -> dict[str, str]:
        """The header that names the ignored parameters of one request, if there are any."""
        shown = [_printable(name) for name in names[:HEADER_NAMES]]
        new = [name for name in shown if name not in self._logged][: MAX_NAMES - len(self._logged)]
        if new:
            self._logged.update(new)
            print(f"ignored unknown parameters of a request: {', '.join(new)} (--lenient=0 refuses them)", file=sys.stderr, flush=True)
        return {IGNORED_HEADER: ", ".join(shown)} if shown else {}


def _printable(name: str) -> str:
    """The name as a header may hold it between commas: some text without spaces, which must not end a header."""
    text = "".join(character if "!" <= character <= "~" and character != "," else "?" for character in name) or "?"
    return text if len(text) <= NAME_CHARACTERS else text[: NAME_CHARACTERS - 3] + "..."
