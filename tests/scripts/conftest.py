"""Tests of scripts train in processes: `home` and what it is made of (tests/helpers/tiny.py); those of pages have a `browser`."""

from tests.helpers.exported import hugging_face  # noqa: F401
from tests.helpers.headless import browser  # noqa: F401
from tests.helpers.tiny import alone, corpus, home, warm  # noqa: F401 (pytest finds fixtures by name)
