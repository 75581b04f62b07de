"""Keys of the chat server: which client a bearer token names, and a pause for addresses that send wrong ones."""

from __future__ import annotations

import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_CHARACTERS = 8  # at least
FREE_GUESSES = 10  # wrong keys of an address before it has to wait
MOST_PAUSE_SECONDS = 60.0
FORGET_SECONDS = 900.0  # after the last wrong key
MOST_ADDRESSES = 10_000  # remembered
_NAME = re.compile(r"[A-Za-z0-9_-]{1,16}")


def parse_keys(text: str, source: str) -> dict[str, str]:
    """Names by key: one key alone, whose name is "", or a line "NAME KEY" for each; "#" begins a comment line.

    Raises `ValueError`, which names `source` and never a key.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words and not words[0].startswith("#")]
    keys: dict[str, str] = {}
    for number, words in lines:
        name, key = ("", words[0]) if len(words) == 1 and len(lines) == 1 else (words[0], words[-1])
        if not (len(words) <= 2 and len(key) >= KEY_CHARACTERS and key.isascii() and key.isprintable()):
            raise ValueError(f"the token in {source} must be {KEY_CHARACTERS} or more ASCII characters without spaces (line {number})")
        if len(lines) > 1 and len(words) != 2:
            raise ValueError(f"line {number} of {source} has no name; expected NAME TOKEN in each line")
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"invalid name in line {number} of {source}; expected 1 to 16 letters, digits, '-' or '_'")
        if key in keys or name in keys.values():
            raise ValueError(f"line {number} of {source} repeats a name or a token; each must be there once")
        keys[key] = name
    if not keys:
        raise ValueError(f"{source} has no token; the token must be {KEY_CHARACTERS} or more ASCII characters without spaces")
    return keys


def bearer(authorization: str) -> str | None:
    """The key in an Authorization header, None if there is none."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def name_of(key: str, keys: Mapping[str, str]) -> str | None:
    """The name of `key`, None if it is wrong. Takes as long for each."""
    given, found = key.encode("utf-8", "surrogateescape"), None
    for known, name in keys.items():
        if hmac.compare_digest(given, known.encode()):
            found = name
    return found


def network(address: str) -> str:
    """What one client has of addresses: an IPv4 address, or a /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


@dataclass
class _Guesses:
    wrong: int = 0
    last: float = -math.inf
    until: float = -math.inf  # no key that was not right before is looked at
    right: set[str] = field(default_factory=set)  # names


class BackOff:
    """Makes an address that sends wrong keys wait: 1 s after `FREE_GUESSES`, and twice as long after each further one.

    Meanwhile it is answered only if it sends a key that was right before, so that those behind one proxy do not shut each other out.
    """

    def __init__(self) -> None:
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()

    def pause(self, address: str, name: str | None) -> float:
        """Seconds that `address` has to wait, 0 if it need not; `name` is that of its key, None if the key is wrong.

        Counts a wrong key, unless the address has to wait anyway.
        """
        now, client = time.monotonic(), network(address)
        guesses = self._guesses.setdefault(client, _Guesses())
        self._guesses.move_to_end(client)
        if now - guesses.last > FORGET_SECONDS:
            guesses.wrong = 0
        if now < guesses.until and name not in guesses.right:
            return guesses.until - now
        while len(self._guesses) > MOST_ADDRESSES:
            self._guesses.popitem(last=False)
        if name is not None:
            guesses.right.add(name)
            return 0.0
        guesses.wrong, guesses.last = guesses.wrong + 1, now
        if guesses.wrong >= FREE_GUESSES:
            guesses.until = now + min(MOST_PAUSE_SECONDS, 2.0 ** min(10, guesses.wrong - FREE_GUESSES))
        return 0.0
