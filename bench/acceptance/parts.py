"""Parts of the acceptance run, in the order in which they run: what tells most, and what later parts find compiled, comes first."""

from __future__ import annotations

from typing import NamedTuple

ROOM = "bench.acceptance"


class Part(NamedTuple):
    """A part: the function `run`, called with a `Lab` and a `Record`, takes at most `limit_seconds` on one H200."""

    name: str
    what: str
    limit_seconds: int
    run: str  # MODULE:FUNCTION


PARTS = (
    Part("machine", "device, versions, chosen backend", 90, f"{ROOM}.machine:run"),
    Part("attention", "attention backends against fp32", 100, f"{ROOM}.attention_error:run"),
    Part("cross_entropy", "chunked against whole cross-entropy", 60, f"{ROOM}.cross_entropy_error:run"),
    Part("muon", "compiled against eager optimizer", 90, f"{ROOM}.muon_error:run"),
    Part("compiled", "20 training steps, compiled against eager", 150, f"{ROOM}.compiled_training:run"),
    Part("resume", "kill -9 and resume, bit for bit", 120, f"{ROOM}.kill_and_resume:run"),
    Part("memory", "measured against estimated device memory", 200, f"{ROOM}.memory_error:run"),
    Part("mfu", "MFU, slowest kernels and synchronisations of a step", 120, f"{ROOM}.utilisation:run"),
    Part("torchrun", "one process under torchrun, and its collective operations", 90, f"{ROOM}.one_process_group:run"),
    Part("decode", "decoding against a full forward, and its speed", 90, f"{ROOM}.decoding:run"),
    Part("checkpoint", "seconds to save and to load", 120, f"{ROOM}.save_and_load:run"),
    Part("mc", "training with a memory: both presets, and the probe for the micro-batch", 180, f"{ROOM}.memory_presets:run"),
)
FIRST = PARTS[0].name  # nothing else runs if it does not come to its end
