"""Parts of an acceptance run that pass, fail, raise, die and hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record


def passes(lab: Lab, record: Record) -> None:
    """Checks that pass, a report and a table."""
    record.at_most("small", 1.0, 2.0, "ms")
    record.equal("same", "a", "a")
    record.report("speed", float("inf"))
    record.table("Things", ["name", "count"], [["a|b", "1"]])


def misses(lab: Lab, record: Record) -> None:
    """A check fails: NaN lies within no bounds."""
    record.between("between", 2.0, 1.0, 2.0)
    record.at_least("not a number", float("nan"), 0.0)
    record.skip("elsewhere", "not here")


def raises(lab: Lab, record: Record) -> None:
    """Ends with an error after a check, which counts."""
    record.equal("before", 1, 1)
    raise RuntimeError("the kernel is broken")


def dies(lab: Lab, record: Record) -> None:
    """The process dies by a signal, as after a fault."""
    os.kill(os.getpid(), signal.SIGKILL)


def waits(lab: Lab, record: Record) -> None:
    """Tells the id of its process, and never ends."""
    record.report("process", os.getpid())
    time.sleep(600)


def hangs(lab: Lab, record: Record) -> None:
    """Never ends, and ignores SIGTERM; a process that it has started hangs too, and is told first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record.report("process", other.pid)
    time.sleep(600)
