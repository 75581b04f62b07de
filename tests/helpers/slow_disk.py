"""`base_train` on a disk that takes SLOW_DISK_SECONDS for each file of tensors: `python -m tests.helpers.slow_disk FLAGS`."""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path
from typing import Any

from nanochat.checkpoint import store


def write_file(path: Path, data: Any, real: Any = store.write_file) -> dict[str, Any]:
    """Half of the file is there while it takes its time."""
    if path.suffix == ".safetensors":
        path.write_bytes(data[: len(data) // 2])
        time.sleep(float(os.environ["SLOW_DISK_SECONDS"]))
        path.unlink()
    return real(path, data)


if __name__ == "__main__":
    store.write_file = write_file
    runpy.run_module("scripts.base_train", run_name="__main__", alter_sys=True)
