"""Benchmarks. Each module runs as `python -m bench.NAME` and ends with one line of JSON."""

import nanochat  # noqa: F401 (prepares the process, as for scripts)
