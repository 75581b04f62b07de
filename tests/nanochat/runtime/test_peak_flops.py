"""Peaks of GPUs by the names that drivers give them."""

import pytest
import torch

from nanochat.runtime.device import Precision, Runtime
from nanochat.runtime.peak_flops import PEAK_FLOPS, peak_flops


@pytest.mark.parametrize(
    "name, tera",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6", 2250),
        ("NVIDIA GB300", 2500),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 503.8),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA GeForce RTX 5070 Ti", 87.9),
        ("NVIDIA GeForce RTX 5070", 61.7),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 88.2),
        ("NVIDIA GeForce RTX 4070 SUPER", 71),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI300X VF", 1307.4),
    ],
)
def test_a_name_has_its_peak(name: str, tera: float) -> None:
    assert peak_flops(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA RTX A1000",  # contains "A10"
        "NVIDIA RTX A4000",  # contains "A40"
        "NVIDIA A10-24Q",
        "Tesla V100-SXM2-16GB",
        "",
    ],
)
def test_a_namesake_is_another_gpu(name: str) -> None:
    assert peak_flops(name) is None


def test_a_model_finds_itself() -> None:
    assert all(peak_flops(f"NVIDIA {name}") == peak for name, peak in PEAK_FLOPS.items())


def test_a_runtime_takes_the_name_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H20")
    there = [Runtime(torch.device(kind), Precision(torch.bfloat16, ""), "sdpa", False, 0, 1).peak_flops for kind in ("cuda", "cpu")]
    assert there == [148e12, None]
