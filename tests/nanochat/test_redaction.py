"""What is a secret and what is not."""

from __future__ import annotations

import pytest

from nanochat.redaction import redact, redact_all


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://user:pw@host:1/x", "https://***@host:1/x"),
        ("s3://token@bucket and http://a:b@c@host", "s3://***@bucket and http://***@host"),
        ("https://host/x?a=1&token=abc&b=2#f", "https://host/x?a=1&token=***&b=2#f"),
        ("?API_KEY=abc", "?API_KEY=***"),
        ("mail me@example.org, see http://host/a@b", "mail me@example.org, see http://host/a@b"),
        ("python -m x --seed=1 key=value", "python -m x --seed=1 key=value"),
    ],
)
def test_urls(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("WANDB_API_KEY", "abc", True), ("HF_TOKEN", "x", True), ("OPENAI_API_KEY", "sk-12345", True), ("db_password", "hunter2!", True),
        ("MY_TOKEN", "true", False), ("HF_TOKEN", "", False), ("TOKENIZERS_PARALLELISM", "whatever", False),
        ("KEYBOARD", "qwertzuiop", False),
    ],
)  # fmt: skip
def test_variables(name: str, value: str, hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"<{value}>") == ("<***>" if hidden else f"<{value}>")


def test_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abcdefgh, x-tenant=12")
    assert redact("Bearer%20abcdefgh / Bearer abcdefgh / abcdefgh / 12") == "*** / *** / *** / 12"


def test_the_longer_of_two_secrets_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret-1")
    monkeypatch.setenv("B_TOKEN", "secret-1-and-more")
    assert redact("secret-1-and-more secret-1") == "*** ***"


def test_nests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert redact_all({"a": ["hf_x", 1, None], "b": {"c": ("y hf_x",)}}) == {"a": ["***", 1, None], "b": {"c": ["y ***"]}}
