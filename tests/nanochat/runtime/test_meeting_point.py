"""Meeting point: agents find its store, one port has one, and a signal ends it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist


def test_it_serves_a_store_until_a_signal(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nanochat.runtime.meeting_point", f"--port={port}"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"meeting point at port {port}; Ctrl-C ends it\n"
            agents = [dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=20)) for _ in range(2)]
            agents[0].set("key", "value")
            assert agents[1].get("key") == b"value"
            second = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
            expected = f"error: cannot listen on port {port}: address already in use; give another port\n"
            assert (second.returncode, second.stdout, second.stderr) == (1, "", expected)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
