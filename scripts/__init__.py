"""Thin entry points: parse the flags, build the parts, run, close."""

import nanochat  # noqa: F401 (prepares the process before the script's modules load)
