"""Tensor files: the bytes that safetensors would write, and every tensor or any rows of it read from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from nanochat.checkpoint.open_file import OpenFile
from nanochat.checkpoint.tensor_file import DTYPES, ReadTensors, saved_tensors, to_bytes


def tensors() -> dict[str, torch.Tensor]:
    """All dtypes, scalars, empty tensors, and a name and a layout that are not plain."""
    named = {}
    for name, dtype in DTYPES.items():
        for key, values in ((f"a.{name}", torch.randint(0, 2, (3, 5))), (f"ü{name}", torch.ones(())), (f"none.{name}", torch.ones(0, 4))):
            named[key] = values.float().to(dtype)
    return named | {"transposed": torch.arange(12.0).reshape(3, 4).t()}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and flat[0].equal(flat[1])


@pytest.mark.parametrize("named", [tensors(), {}], ids=["all dtypes", "nothing"])
def test_the_bytes_are_those_of_safetensors(named: dict[str, torch.Tensor]) -> None:
    assert to_bytes(named)[:] == save({name: tensor.contiguous() for name, tensor in named.items()})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    named = tensors()
    (tmp_path / "file").write_bytes(to_bytes(named))
    read = ReadTensors(saved_tensors(OpenFile(tmp_path / "file")))
    assert read.keys() == named.keys() and len(read) == len(named)
    assert all(same_bits(read[name], tensor) for name, tensor in named.items())


def test_rows_are_read_alone(tmp_path: Path) -> None:
    table = torch.arange(24).reshape(6, 2, 2)
    (tmp_path / "file").write_bytes(to_bytes({"before": torch.ones(3), "table": table}))
    saved = saved_tensors(OpenFile(tmp_path / "file"))["table"]
    for rows in (slice(0, 2), slice(2, 6), slice(5, 9), slice(3, 3)):
        assert saved[rows].equal(table[rows])


def test_the_bytes_are_a_copy() -> None:
    """Of a tensor that is trained on; the two names of a tied one do not share it either."""
    weights = torch.ones(4, requires_grad=True)
    data = to_bytes({"w": weights, "tied": weights})
    before = data[:]
    with torch.no_grad():
        weights.zero_()
    assert data[:] == before


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="z is of torch.complex128, which a checkpoint cannot hold"):
        to_bytes({"z": torch.zeros(2, dtype=torch.complex128)})
