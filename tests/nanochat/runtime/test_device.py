import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.runtime import device
from nanochat.runtime.device import Precision, Runtime, RuntimeFlags, _record_flights
from nanochat.runtime.signals import StopSignals

HEAD = "import os, sys, resource, torch\nfrom nanochat.runtime import device, signals\nfrom nanochat.flags import run\n"


def python(root: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HEAD + code]
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}  # the compiler, where a test ran it, sets this
    return subprocess.run(command, cwd=root, env=environment | variables, capture_output=True, text=True, timeout=120)


def runtime(dtype: torch.dtype = torch.float32, backend: str = "blocked") -> Runtime:
    return Runtime(torch.device("cpu"), Precision(dtype, "a test"), backend, compile=False, rank=0, world_size=1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept(root):
    """96 MiB, taken and freed again and again, must be mapped once: counted in the pages the kernel hands out."""
    done = python(
        root,
        """
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(96 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
device.keep_freed_memory()
faults()
print(default, faults())
""",
    )
    assert done.returncode == 0, done.stderr
    default, kept = map(int, done.stdout.split())
    assert default >= 100 and kept < default / 10


def test_signals_ask_for_a_stop_and_a_second_interrupt_does_not_ask(root):
    code = """
import time
def main():
    for _ in range(2):
        stop = signals.StopSignals()
        print("ready", bool(stop), flush=True)
        while not stop:
            time.sleep(0.01)
        print(stop.requested, flush=True)
        if stop.requested == "SIGTERM":
            stop.close()
    while True:
        time.sleep(0.01)
run(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready False\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "SIGTERM\n"
            assert process.stdout.readline() == "ready False\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "SIGINT\n"
            process.send_signal(signal.SIGTERM)  # one more polite request changes nothing
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    lines = errors.splitlines()
    assert lines[:2] == [f"{name}: stopping at the next step boundary; the run is saved first" for name in ("SIGTERM", "SIGINT")]
    assert lines[-1] == "interrupted" and "Traceback" not in errors


def test_closing_restores_the_handlers():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    stop = StopSignals()
    assert signal.getsignal(signal.SIGTERM) not in before
    stop.close()
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_is_not_there_is_one_line(root):
    cases = {
        "attention='flex', device_type='cpu'": "invalid attention 'flex': it does not run on cpu in torch.float32; expected auto or sdpa"
    }
    if not torch.cuda.is_available():
        cases["device_type='cuda'"] = "device cuda is not available here; use --device-type cpu or auto"
    code = "from nanochat.common import UserError\n"
    for flags in cases:
        code += f"try: device.start(device.RuntimeFlags({flags}))\nexcept UserError as error: print(error)\n"
    code += "os.environ['NANOCHAT_DTYPE'] = 'fp8'\nrun(lambda: device.start(device.RuntimeFlags()))"
    done = python(root, code, NANOCHAT_DTYPE="fp32")
    assert done.stdout.splitlines() == list(cases.values())
    assert (done.returncode, done.stderr) == (1, "error: NANOCHAT_DTYPE is 'fp8'; it must be one of fp32, bf16, fp16\n")


def test_starting_sets_the_process_up(root, base):
    code = """
import nanochat.train.trainer
print(torch.get_default_dtype(), "torch._dynamo" in sys.modules, "TORCHINDUCTOR_CACHE_DIR" in os.environ)
r = device.start(device.RuntimeFlags(device_type="cpu", compile=False, deterministic=True))
print(torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"])
print(r.describe())
print(r.rank, r.world_size, r.backend, r.peak_flops, r.window_pattern("auto"), r.window_pattern("sl"))
import torch._inductor.runtime.cache_dir_utils
print(torch._inductor.runtime.cache_dir_utils.cache_dir())
r.barrier(), r.close()
"""
    done = python(root, code, NANOCHAT_DTYPE="fp32")
    assert done.returncode == 0, done.stderr
    imported, exact, describe, figures, cache = done.stdout.splitlines()
    assert imported == "torch.float32 False False"  # importing the compiler takes seconds and settles where its cache lies
    assert exact == "True :4096:8"
    assert describe.startswith("cpu (") and describe.endswith("fp32 (NANOCHAT_DTYPE), attention blocked, eager")
    assert figures == "0 1 blocked None L SL" and cache == str(base / "compile_cache")


def test_the_log_says_why_attention_is_slower(monkeypatch):
    reasons = {"fa3": "it fails here (ImportError)", "flex": "it fails here (no compiler)"}
    monkeypatch.setattr(device, "suits", lambda backend, where, dtype: where.type == "cuda")
    monkeypatch.setattr(device, "trouble", lambda backend, where, dtype: reasons[backend])
    because = {b: device.slower_because(b, torch.device("cuda"), torch.bfloat16) for b in ("fa3", "flex", "sdpa")}
    assert because["fa3"] == "" and because["flex"] == "no fa3: it fails here (ImportError)"
    assert because["sdpa"] == "no fa3: it fails here (ImportError); no flex: it fails here (no compiler)"
    assert device.slower_because("blocked", torch.device("cpu"), torch.float32) == ""
    said = dataclasses.replace(runtime(), attention_because=because["flex"]).describe()
    assert ", attention blocked (no fa3: it fails here (ImportError)), eager" in said


def test_muon_iterates_in_bf16_only_where_that_is_the_compute_dtype():
    assert [runtime(d).muon_dtype for d in (torch.bfloat16, torch.float16, torch.float32)] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("bad", [{"device_type": "gpu"}, {"attention": "flash"}])
def test_bad_flags_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        RuntimeFlags(**bad)


def test_nccl_records_its_operations_unless_the_user_has_set_it_up(monkeypatch, base):
    monkeypatch.setattr(
        os, "environ", {"NANOCHAT_BASE_DIR": str(base), "TORCH_NCCL_TRACE_BUFFER_SIZE": "7", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
    )
    _record_flights()
    set_here = {name: value for name, value in os.environ.items() if name.startswith("TORCH_")}
    assert set_here == {
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "7", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "TORCH_FR_DUMP_TEMP_FILE": str(base / "nccl_trace_rank_")
    }  # fmt: skip


def test_a_timeout_is_a_positive_number():
    with pytest.raises(ValueError, match="collective_timeout is 0; it must be at least 1"):
        RuntimeFlags(collective_timeout=0)
