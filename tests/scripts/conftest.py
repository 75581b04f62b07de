"""Tests of scripts train in processes: `home` and what it is made of (tests/tiny.py)."""

from tests.tiny import corpus, home, warm  # noqa: F401 (pytest finds fixtures by name)
