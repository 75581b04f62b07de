"""The compute dtype: detected once by the script, passed on explicitly, never a side effect of import.

Master weights, optimizer state and reductions stay in fp32; activations and matmuls run in the compute dtype.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The compute dtype and, for the log, why it was chosen."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def needs_scaler(self) -> bool:
        """fp16 gradients underflow without a loss scale; bf16 has the exponent range of fp32."""
        return self.dtype == torch.float16


def detect_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies it natively (CUDA ≥ sm80, CPUs with AVX512-BF16 or AMX), else fp32.

    `NANOCHAT_DTYPE` (`fp32`, `bf16`, `fp16`) overrides. Raises `ValueError` for another value.
    """
    wanted = os.environ.get("NANOCHAT_DTYPE")
    if wanted:
        if wanted not in DTYPES:
            raise ValueError(f"NANOCHAT_DTYPE is {wanted!r}; it must be one of {', '.join(DTYPES)}")
        return Precision(DTYPES[wanted], "NANOCHAT_DTYPE")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) >= (8, 0):
            return Precision(torch.bfloat16, f"sm{major}{minor} multiplies bf16 natively")
        return Precision(torch.float32, f"sm{major}{minor} has no native bf16")
    if device.type == "cpu":
        native = {"avx512_bf16", "amx_bf16"} & _cpu_flags()
        if native:
            return Precision(torch.bfloat16, f"the CPU has {' and '.join(sorted(native))}")
        return Precision(torch.float32, "the CPU has neither AVX512-BF16 nor AMX")
    return Precision(torch.float32, f"no native bf16 known for {device.type}")


def _cpu_flags() -> set[str]:
    """Feature names of this CPU; empty where the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()
