"""Parts of the acceptance run, in the order in which they run: what tells most, and what later parts find compiled, comes first."""

from __future__ import annotations

from typing import NamedTuple

ROOM = "bench.acceptance"


class Part(NamedTuple):
    """A part: `module` has its `run(lab, record)`, which takes at most `limit_seconds` on one H200."""

    name: str
    what: str
    limit_seconds: int
    module: str


PARTS = (
    Part("machine", "device, versions, chosen backend", 60, f"{ROOM}.machine"),
    Part("attention", "attention backends against fp32", 100, f"{ROOM}.attention_error"),
    Part("cross_entropy", "chunked against whole cross-entropy", 60, f"{ROOM}.cross_entropy_error"),
    Part("muon", "compiled against eager optimizer", 90, f"{ROOM}.muon_error"),
    Part("compiled", "20 training steps, compiled against eager", 150, f"{ROOM}.compiled_training"),
    Part("resume", "kill -9 and resume, bit for bit", 120, f"{ROOM}.kill_and_resume"),
    Part("memory", "measured against estimated device memory", 180, f"{ROOM}.memory_error"),
    Part("mfu", "MFU, slowest kernels and synchronisations of a step", 120, f"{ROOM}.utilisation"),
    Part("torchrun", "one process under torchrun, and its collective operations", 90, f"{ROOM}.one_process_group"),
    Part("mc", "training with a memory: both presets, and the probe for the micro-batch", 180, f"{ROOM}.memory_presets"),
    Part("decode", "decoding against a full forward, and its speed", 60, f"{ROOM}.decoding"),
    Part("checkpoint", "seconds to save and to load", 90, f"{ROOM}.save_and_load"),
)
FIRST = PARTS[0].name  # nothing else runs if it fails
