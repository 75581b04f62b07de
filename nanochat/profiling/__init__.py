"""Profiling: span timers, traces, memory snapshots and device-memory estimates."""
