"""What was saved is put back piece by piece, all of it or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.checkpoint_cost import forget_peak, memory
from nanochat.checkpoint import restore as restore_module_file
from nanochat.checkpoint.restore import restore, restore_module
from nanochat.checkpoint.store import CheckpointStore


class Counting(nn.Module):
    """A module with everything that a state has: parameters, tied ones, a buffer, a scalar, and an extra state."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(7, 3, generator=g))
        self.tied, self.scale = self.table, nn.Parameter(torch.randn((), generator=g))
        self.register_buffer("seen", torch.randint(0, 9, (2,), generator=g))
        self.inner = nn.Sequential(nn.Linear(3, 2))
        self.count = seed

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.count)

    def set_extra_state(self, state: Tensor) -> None:
        self.count = int(state)


@pytest.mark.parametrize("piece", [1, 24, 1 << 20])
def test_a_module_gets_its_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(restore_module_file, "PIECE_BYTES", piece)
    saved, module = Counting(1), Counting(2)
    store = CheckpointStore(tmp_path)
    store.save(1, {"model": saved.state_dict()}, {})
    versions = [p._version for p in module.parameters()]
    restore_module(module, store.load(1).saved["model"])
    assert all(tensor.equal(saved.state_dict()[name]) for name, tensor in module.state_dict().items())
    assert module.count == 1 and module.tied is module.table
    assert all(p._version > old for p, old in zip(module.parameters(), versions, strict=True)), "who keeps a cast copy must notice"


def test_of_a_sharded_tensor_come_the_rows_that_a_process_has(tmp_path: Path) -> None:
    whole, module, rows = nn.Linear(3, 6), nn.Linear(3, 6), torch.zeros(2, 3)
    restore_module(module, whole.state_dict(), lambda tensor: (rows, 3) if tensor.ndim == 2 else (tensor, 0))
    assert rows.equal(whole.weight[3:5]) and module.bias.equal(whole.bias) and not module.weight.equal(whole.weight)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"table": None}, "table is missing"),
        ({"other": torch.ones(1)}, "other is unknown"),
        ({"inner.0.weight": torch.ones(3, 2)}, r"inner.0.weight is \[3, 2\], not \[2, 3\]"),
    ],
)
def test_what_does_not_fit_changes_nothing(change: dict[str, Tensor | None], why: str) -> None:
    state = {name: tensor for name, tensor in (Counting(1).state_dict() | change).items() if tensor is not None}
    module = Counting(2)
    with pytest.raises(ValueError, match=why):
        restore_module(module, state)
    assert module.table.equal(Counting(2).table)


def test_it_takes_little_memory_beside_the_module(tmp_path: Path) -> None:
    """Neither the file nor a tensor of it is in memory a second time, also while it is hashed."""
    store, module = CheckpointStore(tmp_path), nn.Linear(4096, 4096, bias=False)
    store.save(1, {"model": module.state_dict()}, {})
    before = forget_peak()
    restore_module(module, store.load(1).saved["model"])
    assert memory()[1] - before < module.weight.nbytes / 3


@pytest.mark.parametrize("first", [0, 3, 6])
def test_rows_come_from_whichever_parts_have_them(first: int) -> None:
    whole, target = torch.randn(10, 2), torch.empty(4, 2)
    restore(target, {0: whole[:2], 2: whole[2:5], 5: whole[5:]}, first)
    assert target.equal(whole[first : first + 4])
    with pytest.raises(ValueError, match=r"rows \d to \d are not all there"):
        restore(target, {2: whole[2:4], 6: whole[6:8]}, first)
