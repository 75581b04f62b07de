"""Tests of exports load them with transformers."""

from tests.helpers.exported import hugging_face  # noqa: F401 (pytest finds fixtures by name)
