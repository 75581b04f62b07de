"""Elastic runs: what a process does that torchrun's agent on its machine has started, and may start again with more or fewer others.

Obsidian: "Several processes".
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from nanochat.common import UserError
from nanochat.runtime.signals import StopSignals

ASKED_SECONDS = 10.0  # in which the agents of all machines ask their processes to stop, when one comes or goes
_PR_SET_PDEATHSIG = 1  # prctl(2)


def run_id() -> str:
    """The name that torchrun's `--rdzv-id` gives the run and all its restarts; empty if there is none."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if name == "none" else name


def end_with_agent() -> None:
    """Makes the kernel send SIGTERM to this process when its agent dies: others would train on without it, and leave no place for it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def leave_unfinished(stop: StopSignals) -> None:
    """Ends this process's part in a run that was saved before its end, because one or more of its processes were asked to stop.

    An agent takes an exit code of 0 for the end of the run. So where it may start its processes again, one that was not asked itself
    waits for its own agent to ask, which it does when a machine comes, and then raises `UserError`: a machine has gone.
    """
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) == 0:
        return
    deadline = time.monotonic() + ASKED_SECONDS
    while not stop and time.monotonic() < deadline:
        time.sleep(0.05)
    if not stop:
        raise UserError("stopped and saved, as another process of the run was asked to; the run goes on when torchrun starts it again")
