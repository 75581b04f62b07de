"""Benchmarks. Each module runs as `python -m bench.NAME` and ends with one line of JSON."""
