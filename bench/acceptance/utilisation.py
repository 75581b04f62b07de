"""Part `mfu`: how much of the device training uses, which kernels take longest, and where the host waits."""

from __future__ import annotations

from collections import Counter
from statistics import median

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from bench.acceptance.trace import Trace
from nanochat.tracking.metric_bounds import RUN_BOUNDS

ROWS, LENGTH = 16, 2048
FULL = ("--depth=20", f"--max-seq-len={LENGTH}", f"--device-batch-size={ROWS}", f"--total-batch-size={4 * ROWS * LENGTH}")
PROFILED = range(6, 8)  # between two records, so that no logging is in them
LOG, STEPS = 5, 20
WAITS = 1.0  # a step: the loss of the step before is read
TOP = 20


def run(lab: Lab, record: Record) -> None:
    """Trains with two profiled steps; the speed is that of later ones."""
    home = lab.home("mfu")
    profiled = f"--profile-steps={PROFILED.start}:{PROFILED.stop}"
    lab.train(home, [*lab.flags("mfu", FULL), f"--log-every={LOG}", profiled], STEPS)
    later = [each for each in home.metrics() if each["step"] > PROFILED.stop + LOG]
    record.report("tokens/s", median(each["train/tok_per_sec"] for each in later))
    record.report("step", median(each["train/dt"] for each in later), "s")
    for span in ("data", "forward", "backward", "optimizer", "other"):
        record.report(f"step: {span}", median(each[f"train/time/{span}"] for each in later), "ms")
    utilised = [each["train/mfu"] for each in later if "train/mfu" in each]
    (bound,) = [bound for bound in RUN_BOUNDS if bound.metric == "train/mfu"]
    if utilised:
        record.at_least("MFU", median(utilised), bound.rule.alert_low, "the bound below which a run alerts")
    else:
        record.skip("MFU", "no peak is known for this device")
    path = home.base / "report" / "profile" / f"base-mfu-steps-{PROFILED.start}-{PROFILED.stop}.pt.trace.json.gz"
    trace = Trace.read(path)
    record.equal("profiled steps", len(trace.steps), len(PROFILED), str(path))
    slowest = trace.slowest("cpu_op" if lab.toy else "kernel")
    record.at_least("kinds of operators" if lab.toy else "kinds of kernels", len(slowest), 1, "in the profile")
    total = sum(milliseconds for _, milliseconds, _ in slowest)
    rows = [
        [name[:100], f"{ms / len(PROFILED):.2f}", f"{ms / total:.1%}", f"{calls / len(PROFILED):g}"] for name, ms, calls in slowest[:TOP]
    ]
    record.table("Slowest operators of a step" if lab.toy else "Slowest kernels of a step", ["name", "ms", "share", "calls"], rows)
    if lab.toy:
        record.skip("synchronisations", "a CPU has none")
    elif slowest:
        host(record, trace)


def host(record: Record, trace: Trace) -> None:
    """What the host does to the device."""
    record.report("device busy", trace.busy_share(), "share of the profiled time, which profiling lengthens")
    waits = trace.waits()
    record.at_most("synchronisations", len(waits) / len(PROFILED), WAITS, "of a step; the loss of the step before is read")
    record.report("copies to the host", trace.copies_to_host() / len(PROFILED), "of a step")
    places = Counter(map(trace.place_of, waits[:100]))
    record.table("Where the host waits", ["span: operator", "calls"], [[place, str(count)] for place, count in places.most_common()])
