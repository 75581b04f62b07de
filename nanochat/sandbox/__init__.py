"""Sandbox for model-written code: isolation, limits, seccomp filter and the child process."""
