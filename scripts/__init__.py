"""Thin entry points: parse the flags, build the parts, run, close."""
