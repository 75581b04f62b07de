"""Process that agrees with another: FOLDER of checkpoints, what to resume from, value of its weights; prints the error, if any."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.train.agreement import agree_on_run, agree_on_weights

if __name__ == "__main__":
    folder, resume, value = sys.argv[1:]
    runtime = start(RuntimeFlags(device_type="cpu"))
    try:
        agree_on_run({"seed": 1}, CheckpointStore(Path(folder)), resume, runtime)
        agree_on_weights([torch.full((3,), float(value))], runtime)
    except UserError as error:
        print(error)
    runtime.close()
