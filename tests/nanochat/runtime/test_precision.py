from pathlib import Path

import pytest
import torch

from nanochat.runtime.device import DTYPES, Precision, detect_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", DTYPES)
def test_the_variable_overrides(name, monkeypatch):
    monkeypatch.setenv("NANOCHAT_DTYPE", name)
    for device in ("cpu", "cuda", "mps"):  # without asking the device
        precision = detect_precision(torch.device(device))
        assert (precision.name, precision.dtype, precision.reason) == (name, DTYPES[name], "NANOCHAT_DTYPE")
    assert precision.needs_scaler == (name == "fp16")


@pytest.mark.parametrize("value", ["float32", "BF16", "fp8", " fp32"])
def test_another_value_is_refused(value, monkeypatch):
    monkeypatch.setenv("NANOCHAT_DTYPE", value)
    with pytest.raises(ValueError, match=f"^NANOCHAT_DTYPE is '{value}'; it must be one of fp32, bf16, fp16$"):
        detect_precision(CPU)


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("NANOCHAT_DTYPE", "")
    assert detect_precision(CPU).reason != "NANOCHAT_DTYPE"


def test_a_cpu_computes_in_bf16_if_it_multiplies_bf16(monkeypatch):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    native = [w for w in ("amx_bf16", "avx512_bf16") if w in words]
    precision = detect_precision(CPU)
    assert precision.dtype == (torch.bfloat16 if native else torch.float32)
    assert all(word in precision.reason for word in native)


def test_other_devices_compute_in_fp32(monkeypatch):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    assert detect_precision(torch.device("mps")) == Precision(torch.float32, "no native bf16 known for mps")
