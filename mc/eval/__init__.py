"""Evaluation of the memory: rows, sessions, long text, recall suites and cost."""
