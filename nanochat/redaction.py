"""Keeps secrets out of what is written down: logs, records, reports, checkpoints, messages.

A secret is known by the variable that holds it, or by where it stands in a URL. A path, a tag or the name of a run is none: they
belong into the records of a run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MC_CHAT_TOKEN")  # whatever their values are
HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")  # name=value,…
# Of other variables the name tells; a value that is so short would be found where it is not meant.
SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 8
# Only the end of the scheme: to look for all of it takes time in the square of a long text.
USER_IN_URL = re.compile(r"(?P<kept>(?<=[a-z0-9+.-])://)[^/?#\s@]*(@[^/?#\s@]*)*@", re.IGNORECASE)
KEY_IN_URL = re.compile(r"(?P<kept>[?&](api_?key|key|token|access_token|secret|password|sig|signature)=)[^&#\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with `***` for the values of secret variables, and for users, passwords and keys in URLs."""
    for secret in sorted(_secrets(), key=len, reverse=True):  # a secret may be part of another
        text = text.replace(secret, HIDDEN)
    for pattern in (USER_IN_URL, KEY_IN_URL):
        text = pattern.sub(lambda match: match["kept"] + (f"{HIDDEN}@" if match[0].endswith("@") else HIDDEN), text)
    return text


def redact_all(value: Any) -> Any:
    """`redact` on every string in a nest of dicts and lists."""
    if isinstance(value, Mapping):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if name in SECRETS and value or len(value) >= SHORTEST and SECRET_NAME.search(name):
            yield value
        elif name in HEADERS:
            for item in value.split(","):
                header = item.partition("=")[2].strip()
                yield from (secret for secret in {header, unquote(header), *unquote(header).split()} if len(secret) >= SHORTEST)
