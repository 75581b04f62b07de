"""Redacts secrets from logs, records, reports, checkpoints and messages.

A secret is recognised by the environment variable that holds it, or by its place in a URL. Paths, tags and names of runs are
not secrets.
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
# Other variables are secrets by their name; shorter values would match unrelated text.
SECRET_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 8
# Only the end of the scheme: matching all of it takes quadratic time on long texts.
USER_IN_URL = re.compile(r"(?P<kept>(?<=[a-z0-9+.-])://)[^/?#\s@]*(@[^/?#\s@]*)*@", re.IGNORECASE)
KEY_IN_URL = re.compile(r"(?P<kept>[?&](api_?key|key|token|access_token|secret|password|sig|signature)=)[^&#\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with `***` for the values of secret variables and for users, passwords and keys in URLs."""
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
