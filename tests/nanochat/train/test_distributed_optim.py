"""Several processes make the updates of one; what any number of them saved, any number loads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.helpers import optim_worker as worker
from tests.helpers.optim_worker import HALF, MATRICES, PHASES, SKIPPED, TABLES, WHOLE


def launch(out: Path, root: Path) -> None:
    """Runs the three processes to their end."""
    sockets = [socket.socket() for _ in PHASES]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"}
    processes = [
        subprocess.Popen([sys.executable, worker.__file__, str(out), str(rank), *ports], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    try:
        errors = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert all(p.returncode == 0 for p in processes), "\n".join(errors)


def alone(out: Path, steps: range, state: list[Path] | None = None) -> dict[str, torch.Tensor]:
    """The same training in this process."""
    params = worker.parameters()
    o = worker.build(params)
    if state:
        worker.resume(o, params, state)
    result = worker.everything(o, params, worker.train(o, params, steps, 0, 1))
    out.mkdir(parents=True)
    save_file(result, out / "0.safetensors")
    return result


def check(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Every process has the parameters, bit by bit the same; they and the state are the expected ones."""
    results = [load_file(f) for f in sorted(folder.glob("*.safetensors"))]
    norms = expected["norms"][-len(results[0]["norms"]) :]
    for result in results:
        torch.testing.assert_close(result["norms"], norms, rtol=1e-4, atol=0, equal_nan=True)
        for name in MATRICES | TABLES:
            assert torch.equal(result[name], results[0][name])
            torch.testing.assert_close(result[name], expected[name], rtol=1e-3, atol=1e-4)
    params, o = worker.parameters(), worker.build(worker.parameters())
    worker.resume(o, params, sorted(folder.glob("*.safetensors")))
    for name, t in o.state_tensors().items():
        torch.testing.assert_close(t, expected[f"state.{name}"], rtol=1e-3, atol=1e-4)


def test_several_processes_step_as_one_and_share_their_states(tmp_path, root):
    """One test, so that the processes start once: their start takes most of the time."""
    alone(tmp_path / "1" / "fresh", range(HALF))
    launch(tmp_path, root)
    first, whole = alone(tmp_path / "first", range(HALF)), alone(tmp_path / "whole", range(WHOLE))
    assert first["norms"][SKIPPED].isnan() and (first["norms"] > worker.LIMIT).any()
    for world in (2, 3):
        check(tmp_path / str(world) / "fresh", first)
        alone(tmp_path / "1" / f"from_{world}", range(HALF, WHOLE), sorted((tmp_path / str(world) / "fresh").glob("*")))
    for saved, loaded in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (3, 3)]:
        check(tmp_path / str(loaded) / f"from_{saved}", whole)
    for world in (2, 3):  # each holds a share of the state
        files = sorted((tmp_path / str(world) / "fresh").glob("*"))
        sizes = [sum(t.numel() for n, t in load_file(f).items() if n.startswith("state.")) for f in files]
        assert len(files) == world and max(sizes) < 0.8 * sum(sizes)
