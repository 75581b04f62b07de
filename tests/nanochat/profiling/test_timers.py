import time

import pytest
import torch

from nanochat.profiling.timers import SpanTimers

CPU = torch.device("cpu")


def busy(milliseconds: float) -> None:
    end = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end:
        pass


def test_spans_add_up_to_the_time_they_cover():
    spans = SpanTimers(CPU)
    begin = time.perf_counter()
    with spans("step"):
        busy(10)
        with spans("forward"):
            busy(20)
            with spans("lens"):
                busy(30)
        with spans("lens"):
            busy(10)
    total = (time.perf_counter() - begin) * 1e3
    figures = spans.collect()
    assert figures.keys() == {"step", "forward", "lens"}
    assert sum(figures.values()) == pytest.approx(total, abs=1)  # nothing counts twice
    assert figures["lens"] >= 40 and figures["forward"] >= 20 and figures["step"] >= 10


def test_a_span_inside_another_counts_for_itself_alone():
    spans = SpanTimers(CPU)
    with spans("outer"), spans("inner"):
        busy(50)
    figures = spans.collect()
    assert figures["inner"] >= 50 and 0 <= figures["outer"] < 10


def test_a_span_inside_itself_counts_once():
    spans = SpanTimers(CPU)
    begin = time.perf_counter()
    with spans("a"), spans("a"):
        busy(10)
    assert spans.collect()["a"] == pytest.approx((time.perf_counter() - begin) * 1e3, abs=1)


def test_collecting_starts_anew():
    spans = SpanTimers(CPU)
    assert spans.collect() == {}
    for _ in range(3):
        with spans("a"):
            busy(1)
    assert spans.collect()["a"] >= 3
    assert spans.collect() == {}


def test_an_error_ends_its_spans():
    spans = SpanTimers(CPU)
    with pytest.raises(ZeroDivisionError), spans("outer"), spans("inner"):
        _ = 1 / 0
    with spans("after"):
        busy(5)
    figures = spans.collect()
    assert figures["after"] >= 5 and figures["outer"] >= 0  # not charged to a span that is over


def test_what_is_ignored_does_not_count():
    spans = SpanTimers(CPU)
    with spans("kept"):
        busy(2)
    with pytest.raises(ZeroDivisionError), spans.ignored(), spans("other"), spans("kept"):
        busy(20)
        _ = 1 / 0
    figures = spans.collect()
    assert figures.keys() == {"kept"} and 2 <= figures["kept"] < 20
    with spans("after"):
        pass
    assert spans.collect().keys() == {"after"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_device_is_timed():
    spans = SpanTimers(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    with spans("outer"), spans("matmuls"):
        for _ in range(20):
            x = x @ x
    figures = spans.collect()
    assert figures["matmuls"] > 1 and figures["matmuls"] > 10 * abs(figures["outer"])
