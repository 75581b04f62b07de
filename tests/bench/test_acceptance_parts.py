"""Parts of the acceptance run find what they look for."""

from __future__ import annotations

import gzip
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.acceptance import attention_error, cross_entropy_error, decoding, utilisation
from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from bench.acceptance.trace import Trace
from nanochat.infer.kv_cache import KVCache
from nanochat.model.attention import attention


def verdicts(path: Path) -> dict[str, str]:
    checks = [json.loads(line)["check"] for line in path.read_text().splitlines() if '"check"' in line]
    return {check["name"]: check["verdict"] for check in checks}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(True, tmp_path, ExitStack())


def test_a_window_that_is_off_by_one_is_found(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = lambda q, k, v, window, backend: attention(q, k, v, window + (backend == "blocked" and window > 0), backend)  # noqa: E731
    monkeypatch.setattr(attention_error, "attention", wrong)
    attention_error.run(lab, Record(tmp_path / "record"))
    found = verdicts(tmp_path / "record")
    failed = {name for name, verdict in found.items() if verdict == "failed"}
    assert failed == {f"blocked: {case}" for case in attention_error.TOY_CASES if case.window}


def test_a_gradient_that_is_a_little_too_large_is_found(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunked = cross_entropy_error.ChunkedCrossEntropy

    class Larger(chunked):
        def gradients(self, *arguments):
            losses, dhidden, dweight = super().gradients(*arguments)
            return losses, dhidden * 1.001, dweight

    monkeypatch.setattr(cross_entropy_error, "ChunkedCrossEntropy", Larger)
    cross_entropy_error.run(lab, Record(tmp_path / "record"))
    found = verdicts(tmp_path / "record")
    assert found["gradient of hidden"] == "failed" and found["gradient of weight"] == found["loss"] == "passed"


def test_a_cache_that_forgets_a_token_is_found(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgets(KVCache):
        def _attend_one(self, layer, q, k, v):
            self.values[layer][:, :, 0] = 0
            return super()._attend_one(layer, q, k, v)

    monkeypatch.setattr(decoding, "KVCache", Forgets)
    monkeypatch.setattr(decoding, "TOY", decoding.InferenceSpeed(**vars(decoding.TOY) | {"batches": "1", "new_tokens": 2}))
    decoding.run(lab, Record(tmp_path / "record"))
    assert verdicts(tmp_path / "record")["decoded"] == "failed"


def event(category: str, name: str, begin: float, duration: float, thread: int = 1) -> dict:
    return {"ph": "X", "cat": category, "name": name, "ts": begin, "dur": duration, "tid": thread}


EVENTS = [
    event("user_annotation", "step 6", 100, 100),
    event("user_annotation", "optimizer", 150, 40),
    event("cpu_op", "aten::item", 160, 20),
    event("cpu_op", "aten::_local_scalar_dense", 161, 18),
    event("cuda_runtime", "cudaStreamSynchronize", 165, 10),
    event("cuda_runtime", "cudaLaunchKernel", 105, 1),
    event("user_annotation", "step 7", 200, 100),
    event("cuda_runtime", "cudaStreamSynchronize", 210, 5),
    event("cuda_runtime", "cudaDeviceSynchronize", 320, 5),  # after the steps
    event("kernel", "gemm", 110, 1000, thread=7),
    event("kernel", "gemm", 1200, 500, thread=7),
    event("kernel", "softmax", 1600, 400, thread=8),  # beside the other
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 2000, 10, thread=7),
    event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 2050, 10, thread=7),
    {"ph": "M", "name": "process_name"},
]


def test_a_trace_tells_kernels_and_where_the_host_waits(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "trace.json.gz", "wt") as file:
        json.dump({"traceEvents": EVENTS}, file)
    trace = Trace.read(tmp_path / "trace.json.gz")
    assert [step["name"] for step in trace.steps] == ["step 6", "step 7"]
    assert trace.slowest("kernel") == [("gemm", 1.5, 2), ("softmax", 0.4, 1)]
    assert trace.busy_share() == pytest.approx((1000 + 800 + 10 + 10) / 1950)
    assert [trace.place_of(wait) for wait in trace.waits()] == ["optimizer: aten::item", "between spans: cudaStreamSynchronize"]
    assert trace.copies_to_host() == 1
    utilisation.host(Record(tmp_path / "record"), trace)
    assert verdicts(tmp_path / "record")["synchronisations"] == "passed"  # one in each of two steps
    more = Trace([*trace.events, event("cuda_runtime", "cudaEventSynchronize", 220, 5)])
    utilisation.host(Record(tmp_path / "more"), more)
    assert verdicts(tmp_path / "more")["synchronisations"] == "failed"
