"""Parts of the acceptance run find what they look for."""

from __future__ import annotations

import gzip
import json
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from bench.acceptance import (
    attention_error,
    compiled_training,
    cross_entropy_error,
    decoding,
    kill_and_resume,
    memory_error,
    memory_presets,
    one_process_group,
    utilisation,
)  # fmt: skip
from bench.acceptance import lab as lab_module
from bench.acceptance.cold_start import ColdStart
from bench.acceptance.lab import LONG, Lab
from bench.acceptance.record import Record
from bench.acceptance.trace import Trace
from bench.tiny_run import Home, make_corpus, new_home
from bench.warm_start import Process
from nanochat.data.tokenizer import Tokenizer
from nanochat.flags import parse
from nanochat.infer.kv_cache import KVCache
from nanochat.model.attention import attention
from scripts.memory_estimate import EstimateMemory, estimate
from tests.helpers.recorded import Graphs
from tests.helpers.tiny_model import tiny_model


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


def test_the_cache_grows_while_steps_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, model = Graphs(monkeypatch), tiny_model(window_pattern="SL")
    tokens = torch.randint(61, (1, 2 * decoding.COMPARED), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, got = decoding.full_logits(model, tokens)[0, -decoding.COMPARED :], decoding.decoded_logits(model, tokens)
        assert attention_error.relative_error(got, exact) < decoding.LEAST
        assert graphs.recorded == 2 and graphs.replayed > decoding.COMPARED - 9
        monkeypatch.setattr(KVCache, "_forget_graphs", lambda cache: None)
        with pytest.raises(RuntimeError, match="out of bounds"):
            decoding.decoded_logits(model, tokens)


def test_a_run_that_begins_anew_has_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the same bits."""
    start, started = Home.start, []

    def third_anew(home: Home, *flags: str, **options) -> Process:
        started.append(home.tag)
        return start(home, *flags, *(["--resume=never"] if len(started) == 3 else []), **options)

    monkeypatch.setattr(Home, "start", third_anew)
    with ExitStack() as stack:
        kill_and_resume.run(Lab(True, tmp_path, stack), Record(tmp_path / "record"))
    found = verdicts(tmp_path / "record")
    assert found.pop("resumed") == "failed" and set(found.values()) == {"passed"} and started == ["whole", "killed", "killed"]


FULL = {
    "compiled": (*compiled_training.FULL, LONG),
    "resume": (*kill_and_resume.FULL, *kill_and_resume.SCHEDULE),
    "memory": (*memory_error.full(*memory_error.SHAPES[-1]), LONG),
    "mfu": (*utilisation.FULL, "--log-every=5", "--profile-steps=6:8", LONG),
    "grouped": (*one_process_group.FULL, *one_process_group.EXACT),
    "mc": (*memory_presets.FULL, LONG, "--mc", "--mc-preset=full"),
}


@pytest.mark.parametrize("tag", FULL)
def test_a_run_of_the_full_size_fits_an_h200(tag: str, tmp_path: Path) -> None:
    """No CPU trains it: its flags are those of base_train, and the estimate takes a good part of the device."""
    lab = Lab(False, tmp_path, ExitStack())
    argv = [*Home(tmp_path, tmp_path, None, tag).argv, *lab.flags(tag, FULL[tag])]
    foresight = estimate(parse(EstimateMemory, [*argv, f"--vocab-size={lab.vocab_size}", "--device-memory=139"]))
    assert foresight.setting.device_type == "cuda" and foresight.setting.dtype == torch.bfloat16
    assert (foresight.config.head_dim, foresight.config.width) == (128, 64 * foresight.config.depth)
    needed = foresight.at(foresight.device_batch_size)
    assert needed.fits(foresight.available) and (tag != "memory" or needed.total > 0.4 * foresight.available)


def test_the_vocabulary_of_the_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_module, "TEXTS", 3)
    lab = Lab(False, tmp_path, ExitStack())
    tokenizer = Tokenizer.load(lab.corpus.parent / "tokenizer")
    text = (lab.corpus / "000.txt").read_text()
    tokens = tokenizer.encode(text)
    assert tokenizer.vocab_size == 32768 and tokenizer.decode(tokens) == text and len(tokens) < 0.8 * len(text)


def test_cold_processes_start_end_and_are_killed(tmp_path: Path) -> None:
    """As those of a GPU: interpreters of their own."""
    with ColdStart() as cold:
        home = new_home(tmp_path / "base", make_corpus(tmp_path), cold)
        process = home.start("--num-iterations=5000")
        process.until(lambda: home.logged(1))
        wrong = home.begin("bench.gpu_acceptance", "--time-limit=0")
        assert wrong.wait() == 2 and "time_limit is 0" in wrong.stderr
        assert process.poll() is None and "step 00001" in process.stdout
    assert process.poll() == -signal.SIGKILL


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
