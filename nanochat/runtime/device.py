"""Runtime of a process: device, process group, precision, allocator and compile cache."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nanochat.common import UserError, base_dir, first_line
from nanochat.flags import check, flag
from nanochat.model.attention import FASTEST, AttentionBackend, best_window_pattern, choose_backend, suits, trouble
from nanochat.profiling.memory_snapshot import memory_debug_wanted
from nanochat.runtime.elastic import end_with_agent
from nanochat.runtime.lost_peer import PeerWatch
from nanochat.runtime.peak_flops import peak_flops
from nanochat.runtime.peers import gather, gather_json

DISK_TIMEOUT = timedelta(hours=2)  # in the background, where a process may wait for another's slow disk
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class RuntimeFlags:
    """Device, attention backend and compilation."""

    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best available")
    attention: str = flag("auto", "attention backend: sdpa, blocked, flex or fa3; auto = the fastest available")
    deterministic: bool = flag(False, "repeat a run bit by bit on a GPU, at some cost in speed; a CPU does without it")
    compile: bool = flag(True, "compile transformer blocks with torch.compile if a C++ compiler is available; cached in the base folder")
    collective_timeout: int = flag(600, "end the run if a process does not come to a collective operation for this long", unit="seconds")

    def __post_init__(self) -> None:
        if self.device_type not in ("auto", "cuda", "cpu", "mps"):
            raise ValueError(f"device_type is {self.device_type!r}; it must be auto, cuda, cpu or mps")
        if self.attention not in ("auto", "sdpa", "blocked", "flex", "fa3"):
            raise ValueError(f"attention is {self.attention!r}; it must be auto, sdpa, blocked, flex or fa3")
        check(self, lambda value: value >= 1, "must be at least 1", "collective_timeout")


@dataclass(frozen=True)
class Precision:
    """Compute dtype, and the reason for it, for the log."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients need a loss scale: fp16 underflows, bf16 has the exponent range of fp32."""
        return self.dtype == torch.float16


@dataclass(frozen=True)
class Runtime:
    """Device, precision and place in the process group of this process."""

    device: torch.device
    precision: Precision
    backend: AttentionBackend
    compile: bool
    rank: int
    world_size: int
    eager_because: str = ""  # why nothing is compiled although it was requested
    attention_because: str = ""  # why a faster backend for this device was not chosen
    hosts: tuple[str, ...] = ()  # of the processes, by rank
    store: dist.Store | None = None  # by which the processes found each other
    collective_timeout: int = 0
    group: dist.ProcessGroup | None = None  # over whose connections the processes agree; None = those of training

    @property
    def peak_flops(self) -> float | None:
        """Dense bf16 peak of the device in FLOP/s, if known."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None

    @property
    def muon_dtype(self) -> torch.dtype:
        """Dtype of Muon's iteration: bf16 if that is the precision; fp16 has too little range."""
        return torch.bfloat16 if self.precision.dtype == torch.bfloat16 else torch.float32

    def window_pattern(self, wanted: str) -> str:
        """Resolves the window pattern `auto` for this backend."""
        return best_window_pattern(self.backend) if wanted == "auto" else wanted.upper()

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def all_agree(self, ok: bool) -> bool:
        """Waits for all processes and returns whether `ok` is true in each."""
        return all(gather_json(ok, self.group)) if self.world_size > 1 else ok

    def first(self, value: Any) -> Any:
        """`value`, which is JSON, of the first process."""
        return gather_json(value, self.group)[0] if self.world_size > 1 else value

    def in_background(self) -> Runtime:
        """The same processes, whose threads may agree on something while they train. A collective call."""
        group = dist.new_group(backend="gloo", timeout=DISK_TIMEOUT) if self.world_size > 1 else None
        return dataclasses.replace(self, group=group)

    def watch(self) -> PeerWatch:
        """Context manager in which a failed collective operation is an error that names the lost process."""
        return PeerWatch(self.store, self.rank, self.hosts, self.collective_timeout)

    def say(self, text: str) -> None:
        """Prints a line in the first process."""
        if self.rank == 0:
            print(text)

    def describe(self) -> str:
        """One line for the log."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        how = "compiled" if self.compile else f"eager ({self.eager_because})" if self.eager_because else "eager"
        attention = f"{self.backend} ({self.attention_because})" if self.attention_because else self.backend
        return f"{self.device.type} ({name}){processes}, {self.precision.name} ({self.precision.reason}), attention {attention}, {how}"

    def close(self) -> None:
        """Leaves the process group."""
        if self.world_size > 1:
            dist.destroy_process_group()


def start(flags: RuntimeFlags) -> Runtime:
    """Sets this process up; under torchrun it joins the process group (NCCL for tensors on CUDA, gloo for others).

    Raises `UserError` if the device is not available, if MC_MEMORY_DEBUG is neither 0 nor 1, or if the other processes do not come.
    """
    memory_debug_wanted()  # raises before anything is loaded
    end_with_agent()
    keep_freed_memory()
    rank, local, world = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")))
    device = find_device(flags.device_type, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    compiler_trouble = _prepare_compiler(device)  # before a backend is tried, which compiles
    if flags.deterministic:
        repeat_exactly()
    try:
        precision = detect_precision(device)
        backend = choose_backend(flags.attention, device, precision.dtype)
    except ValueError as error:
        raise UserError(str(error)) from error
    hosts, store = _join(device, rank, world, flags.collective_timeout) if world > 1 else ((), None)
    eager = compiler_trouble if flags.compile else ""
    slower = slower_because(backend, device, precision.dtype) if flags.attention == "auto" else ""
    compiled = flags.compile and not compiler_trouble
    return Runtime(device, precision, backend, compiled, rank, world, eager, slower, hosts, store, flags.collective_timeout)


def _join(device: torch.device, rank: int, world: int, timeout_seconds: int) -> tuple[tuple[str, ...], dist.Store]:
    """Joins the process group; returns the hosts by rank, and a store for notes. Raises `UserError` if the others do not come."""
    on_gpu, timeout = device.type == "cuda", timedelta(seconds=timeout_seconds)
    if on_gpu:
        _record_flights()
    try:
        store, rank, world = next(dist.rendezvous("env://", rank, world, timeout=timeout))
        store.set_timeout(timeout)
        store = _of_this_start(store)
        group = {"backend": "cpu:gloo,cuda:nccl" if on_gpu else "gloo", "device_id": device if on_gpu else None}
        dist.init_process_group(**group, store=dist.PrefixStore("group", store), rank=rank, world_size=world, timeout=timeout)
        return tuple(gather(platform.node())), dist.PrefixStore("notes", store)
    except RuntimeError as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UserError(
            f"rank {rank} did not meet all {world} processes at {where} within {timeout_seconds} s ({first_line(error)}); "
            "look at the others' output, and start all again"
        ) from error


def _of_this_start(store: dist.Store) -> dist.Store:
    """`store` without what earlier starts of the processes left in it: an agent keeps one store over all its restarts.

    Raises `UserError` where that cannot be told apart.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store
    restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if restarts != "0" and os.environ["GROUP_WORLD_SIZE"] != "1":  # the machines may have counted differently
        raise UserError("restarts on several machines need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun; use runs/multinode.sh")
    return dist.PrefixStore(f"start{restarts}", store)


def _record_flights() -> None:
    """Makes NCCL write its last operations to files in the base folder when one takes too long, unless the user has set it up."""
    for names, value in {
        ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"): "2000",
        ("TORCH_NCCL_DUMP_ON_TIMEOUT",): "1",
        ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"): str(base_dir() / "nccl_trace_rank_"),
    }.items():  # the second name is that of earlier versions of torch
        if not os.environ.keys() & set(names):
            os.environ[names[0]] = value


def repeat_exactly() -> None:
    """Makes PyTorch choose algorithms that give the same bits every time; an operation without one raises `RuntimeError`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written


def slower_because(backend: AttentionBackend, device: torch.device, dtype: torch.dtype) -> str:
    """Why the backends that are faster on `device` than `backend` were not chosen; empty if there are none."""
    faster = FASTEST[: FASTEST.index(backend)] if backend in FASTEST else FASTEST
    return "; ".join(f"no {each}: {trouble(each, device, dtype)}" for each in faster if suits(each, device, dtype))


def find_device(wanted: str, local_rank: int = 0) -> torch.device:
    """The device of `--device-type`. Raises `UserError` if it is not available."""
    devices = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(k for k, available in devices.items() if available) if wanted == "auto" else wanted
    if not devices[kind]:
        raise UserError(f"device {kind} is not available here; use --device-type cpu or auto")
    if kind == "cuda" and local_rank >= torch.cuda.device_count():
        raise UserError(f"process {local_rank} has no GPU, this machine has {torch.cuda.device_count()}; start as many processes as GPUs")
    return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)


def detect_precision(device: torch.device) -> Precision:
    """bf16 if the hardware multiplies it natively (CUDA ≥ sm80, CPUs with AVX512-BF16 or AMX), else fp32.

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
    """Feature names of this CPU; empty if the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def _prepare_compiler(device: torch.device) -> str:
    """Configures torch.compile before its first use. Returns why it cannot run here, or an empty text."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(base_dir() / "compile_cache"))
    if device.type != "cpu":
        return ""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler} is missing, with it training is faster"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h is missing, with Python's development files training is faster"
    # Trust the CPU's list of instruction sets: trying each with a test program takes 4 s at a cold start.
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    return ""


def keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks instead of returning them to the system at once.

    Each training step frees and allocates the same tens of megabytes; by default the kernel maps and zeroes fresh pages each
    time. Does nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # mallopt(3)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 << 20)
