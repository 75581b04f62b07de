"""Shared parts of the entry points."""
