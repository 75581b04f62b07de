"""Part `resume`: a run that gets SIGKILL and is started again ends with the bits of one that ran through."""

from __future__ import annotations

import signal

from bench.acceptance.lab import Lab
from bench.acceptance.record import Record

STEPS, SAVE, KILL = 20, 4, 6  # steps; many are left to be killed in
FULL = ("--depth=4", "--max-seq-len=512", "--device-batch-size=16", f"--total-batch-size={2 * 16 * 512}")
SCHEDULE = (f"--num-iterations={STEPS}", f"--save-every={SAVE}", "--warmup-steps=3", "--deterministic=1", "--keep-checkpoints=-1")


def run(lab: Lab, record: Record) -> None:
    """Trains through; then kills a run, resumes it and compares."""
    whole, killed = lab.home("whole"), lab.home("killed")
    lab.finish(whole.start(*lab.flags("whole", FULL), *SCHEDULE, environment=lab.environment))
    argv = [*lab.flags("killed", FULL), *SCHEDULE]
    process = killed.start(*argv, environment=lab.environment)
    lab.wait(process, lambda: killed.logged(KILL) and bool(killed.saved_steps()))
    process.signal(signal.SIGKILL)
    process.wait()
    saved = killed.saved_steps()
    record.equal("killed after a checkpoint, before the end", SAVE <= max(saved, default=0) < STEPS, True, f"checkpoints {saved}")
    process = killed.start(*argv, environment=lab.environment)
    lab.finish(process)
    record.equal("resumed", f"checkpoint of step {max(saved)} in {killed.checkpoints} is valid" in process.stdout, True)
    mine, others = killed.tensors(STEPS), whole.tensors(STEPS)
    for file in sorted(others):
        record.equal(f"{file} is bit-identical", mine.get(file) == others[file], True)
    record.equal("metrics are equal", killed.figures() == whole.figures(), True, f"{len(whole.figures())} records, without clocks")
