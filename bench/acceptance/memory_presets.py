"""Part `mc`: training with a memory in both presets, and the micro-batch that a probe of the device chooses."""

from __future__ import annotations

import re
from statistics import median

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from mc.auto_batch import MEMORY_SHARE
from mc.config import PRESETS
from nanochat.flags import parse
from nanochat.profiling.device_memory import MIB
from scripts.memory_estimate import EstimateMemory, estimate

STEPS = 4
ROWS, LENGTH = 32, 2048  # as in `compiled`, so that the layers of the rows are compiled
FULL = ("--depth=12", f"--max-seq-len={LENGTH}", f"--device-batch-size={ROWS}", f"--total-batch-size={2 * ROWS * LENGTH}")
TOY = ("--max-seq-len=128", "--total-batch-size=1024", "--block-size=8")
CHOSEN = re.compile(r"memory: (\d+) micro-batches of (\d+) rows in a step")
STEP_SHARE = 0.06  # of the device memory that the optimizer's step may take beyond what the probe allows


def run(lab: Lab, record: Record) -> None:
    """Trains a few steps with each preset."""
    for preset in sorted(PRESETS):
        home = lab.home(f"{preset}-mc")
        argv = [*lab.flags(home.tag, FULL, TOY), "--mc", f"--mc-preset={preset}"]
        foresight = estimate(parse(EstimateMemory, [*home.argv, *argv, f"--vocab-size={lab.vocab_size}"]))
        process = lab.train(home, argv, STEPS)
        records = home.metrics()
        losses = [each["train/loss"] for each in records]
        record.at_most(f"{preset}: loss at the end", losses[-1], losses[0], "the first step's: it learns")
        finite = [each["mc/token_loss"] is not None for each in records]
        record.equal(f"{preset}: the variants' loss is finite", all(finite), True)
        micro, rows = map(int, CHOSEN.search(process.stdout).groups())
        record.equal(f"{preset}: rows of a step", micro * rows, foresight.rows_per_step, f"{micro} micro-batches of {rows} rows")
        if lab.toy:
            record.skip(f"{preset}: probe", "on a CPU the micro-batch is the baseline's")
        else:
            peak = max(each["train/peak_mem_mib"] for each in records)
            share = peak * MIB / foresight.available
            record.at_most(f"{preset}: peak memory", share, MEMORY_SHARE + STEP_SHARE, "share of the device's")
            expected = foresight.at(rows)
            ratio = (expected.total - expected.parts["process"]) / MIB / peak
            record.report(f"{preset}: estimate / measured", ratio, f"of {peak:,.0f} MiB")
        later = records[2:]
        record.report(f"{preset}: tokens/s", median(each["train/tok_per_sec"] for each in later))
        record.report(f"{preset}: first step", records[0]["train/dt"], "s, with the compilations")
