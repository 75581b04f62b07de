"""Tests of benches that train in processes: `home` and what it is made of (tests/helpers/tiny.py)."""

from tests.helpers.tiny import corpus, home, warm  # noqa: F401 (pytest finds fixtures by name)
