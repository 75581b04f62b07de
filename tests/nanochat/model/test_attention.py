import itertools
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.model import attention as attention_module
from nanochat.model.attention import (
    QUERY_BLOCK,
    MemoryEntries,
    attention,
    attention_with_memory,
    best_window_pattern,
    cache_mask,
    choose_backend,
    eager_backend,
    suits,
    trouble,
)

CPU = torch.device("cpu")
ON_CPU = ("sdpa", "blocked")  # flex has no backward there
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def naive(q: Tensor, k: Tensor, v: Tensor, window: int, lengths: list[int] | None = None) -> Tensor:
    """Attention as it is defined: one query after the other, in fp64."""
    B, T, H, E = q.shape
    S, G = k.shape[1:3]
    k, v = (t.double().repeat_interleave(H // G, dim=2) for t in (k, v))
    rows = []
    for b in range(B):
        last = (lengths[b] if lengths else S) - 1
        for position in range(last - T + 1, last + 1):
            keys = slice(max(0, position - window + 1) if window else 0, position + 1)
            scores = torch.einsum("he,she->hs", q[b, position - last - 1].double(), k[b, keys]) / E**0.5
            rows.append(torch.einsum("hs,she->he", scores.softmax(-1), v[b, keys]))
    return torch.stack(rows).view(B, T, H, E)


def draw(B: int, T: int, S: int, G: int, repeat: int, E: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """q, k, v that want gradients, and a gradient of the output."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(B, T, G * repeat, E), (B, S, G, E), (B, S, G, E), (B, T, G * repeat, E)]
    return [torch.randn(shape, generator=g).to(dtype).requires_grad_(i < 3) for i, shape in enumerate(shapes)]


def gradients(y: Tensor, dy: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


shapes = {
    "B": st.integers(1, 2),
    "T": st.integers(1, 300) | st.sampled_from([1, 2, QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK]),
    "before": st.sampled_from([0, 0, 1, 5, 127, 128, 200]),
    "window": st.integers(0, 320) | st.sampled_from([0, 1, 2, 128, 129]),
    "G": st.integers(1, 2),
    "repeat": st.integers(1, 3),
}


@pytest.mark.parametrize("backend", ON_CPU)
@settings(max_examples=12, deadline=None)
@given(**shapes)
def test_every_backend_is_attention(backend, B, T, before, window, G, repeat):
    q, k, v, dy = draw(B, T, T + before, G, repeat)
    got = gradients(attention(q, k, v, window, backend), dy, q, k, v)
    expected = gradients(naive(q, k, v, window), dy, q, k, v)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ON_CPU)
@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(1, 20), st.integers(0, 40), st.integers(0, 30), st.integers(1, 2), st.integers(1, 3))
def test_unused_slots_of_a_cache_are_not_seen(backend, data, T, unused, window, G, repeat):
    lengths = data.draw(st.lists(st.integers(T, T + unused), min_size=3, max_size=3))
    S = T + unused
    q, k, v, _ = draw(3, T, S, G, repeat)
    with torch.no_grad():
        for b, length in enumerate(lengths):  # whatever lies there must not matter
            k[b, length:] = v[b, length:] = 1e4
        expected = naive(q, k, v, window, lengths).float()
        got = attention(q, k, v, window, backend, cache_mask(T, S, window, torch.tensor(lengths), q.dtype))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("backend", ON_CPU)
def test_bf16_is_as_good_as_bf16_is(backend, window):
    q, k, v, dy = draw(2, 200, 200, 2, 2, E=64, dtype=torch.bfloat16)
    got = gradients(attention(q, k, v, window, backend), dy, q, k, v)
    expected = gradients(naive(q, k, v, window), dy, q, k, v)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.double() - b).norm() / b.norm() < 0.01


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_window_as_long_as_the_context_changes_nothing(backend):
    q, k, v, _ = draw(1, 150, 150, 1, 2)
    torch.testing.assert_close(attention(q, k, v, 150, backend), attention(q, k, v, 0, backend))


@pytest.mark.parametrize("T, S, window, G, repeat", [(140, 140, 0, 1, 1), (140, 140, 30, 2, 2), (3, 140, 9, 1, 2)])
def test_the_blocked_operator_keeps_the_rules_of_operators(T, S, window, G, repeat):
    q, dy = (torch.randn(G, T * repeat, 8, requires_grad=r) for r in (True, False))
    k, v = (torch.randn(G, S, 8, requires_grad=True) for _ in range(2))
    # Symbolic sizes are left out: the number of blocks follows from the length, so every length compiles on its own.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.nanochat.blocked_attention.default, (q, k, v, repeat, window, QUERY_BLOCK), test_utils=checks)
    plain = [t.detach() for t in (dy, q, k, v)]
    saved = torch.ops.nanochat.blocked_attention(*plain[1:], repeat, window, QUERY_BLOCK)[1:]
    arguments = (*plain, saved, repeat, window, QUERY_BLOCK)
    torch.library.opcheck(torch.ops.nanochat.blocked_attention_backward.default, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_window_keeps_blocks_of_the_window_alone():
    q = k = v = torch.randn(1, 1024, 8)
    full, windowed = (sum(p.numel() for p in torch.ops.nanochat.blocked_attention(q, k, v, 1, w, QUERY_BLOCK)[1:]) for w in (0, 128))
    assert full < 0.6 * 1024**2  # of the square, half and the diagonal blocks
    assert windowed < 2 * 1024 * 128


def test_compiled_is_eager():
    q, k, v, dy = draw(1, 140, 140, 1, 2)

    def layer(q, k, v):
        return torch.relu(attention(q * 2, k, v, 20, "blocked")) + 1

    got = gradients(torch.compile(layer, dynamic=False, fullgraph=True)(q, k, v), dy, q, k, v)
    for a, b in zip(got, gradients(layer(q, k, v), dy, q, k, v), strict=True):
        torch.testing.assert_close(a, b)


def test_auto_is_the_fastest_that_runs():
    assert choose_backend("auto", CPU, torch.bfloat16) == "blocked"
    assert choose_backend("auto", torch.device("mps"), torch.float32) == "sdpa"
    assert choose_backend("sdpa", CPU, torch.float32) == "sdpa"
    assert best_window_pattern("blocked") == best_window_pattern("sdpa") == "L"
    assert best_window_pattern("flex") == best_window_pattern("fa3") == "SSSL"
    assert [eager_backend(backend) for backend in ("sdpa", "blocked", "flex", "fa3")] == ["sdpa", "blocked", "sdpa", "fa3"]


@pytest.mark.parametrize(
    "wanted, says", [("flex", "does not run on cpu"), ("fa3", "does not run on cpu"), ("flash", "expected auto, sdpa")]
)
def test_an_unavailable_backend_is_refused(wanted, says):
    with pytest.raises(ValueError, match=says):
        choose_backend(wanted, CPU, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 40])
def test_flex_is_attention_where_only_its_forward_runs(window):
    q, k, v = (t.detach() for t in draw(2, 160, 160, 2, 2, E=16)[:3])
    torch.testing.assert_close(attention(q, k, v, window, "flex"), naive(q, k, v, window).float(), rtol=1e-4, atol=2e-5)


@on_cuda
@pytest.mark.parametrize("T, window", [(64, 0), (300, 0), (300, 100), (513, 129)])
@pytest.mark.parametrize("backend", ["sdpa", "blocked", "flex", "fa3"])
def test_every_backend_is_attention_on_cuda(backend, T, window):
    try:
        choose_backend(backend, torch.device("cuda"), torch.bfloat16)
    except ValueError as error:
        pytest.skip(str(error))
    q, k, v, dy = draw(2, T, T, 2, 2, E=64, dtype=torch.bfloat16)
    there = [t.detach().cuda().requires_grad_(t.requires_grad) for t in (q, k, v)]
    got = gradients(attention(*there, window, backend), dy.cuda(), *there)
    for a, b in zip(got, gradients(naive(q, k, v, window), dy, q, k, v), strict=True):
        assert (a.cpu().double() - b).norm() / b.norm() < 0.01


# --- backends that are tried before they are chosen ---

HOPPER = torch.device("cuda", 0)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hopper GPU that there is not: what is tried on it runs on the CPU."""
    really = attention_module._try_out
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(attention_module, "_try_out", lambda backend, device, dtype: really(backend, CPU, dtype))
    trouble.cache_clear()
    yield
    trouble.cache_clear()


def fake_fa3(monkeypatch: pytest.MonkeyPatch, wrong: float = 0.0, alone: bool = False) -> list[dict]:
    """FlashAttention 3's module, by `sdpa`; returns the arguments of its calls."""
    calls: list[dict] = []

    def flash_attn_func(q, k, v, causal, window_size, deterministic):
        calls.append({"causal": causal, "window_size": window_size, "deterministic": deterministic})
        out = attention(q, k, v, window_size[0] + 1, "sdpa") + wrong
        return out if alone else (out, out.new_zeros(q.shape[0], q.shape[2], q.shape[1]))

    module = types.ModuleType("flash_attn_interface")
    module.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    return calls


@pytest.mark.parametrize("alone", [False, True], ids=["with the logarithms", "alone"])
def test_fa3_is_chosen_where_it_runs(hopper: None, monkeypatch: pytest.MonkeyPatch, alone: bool) -> None:
    calls = fake_fa3(monkeypatch, alone=alone)
    assert choose_backend("auto", HOPPER, torch.bfloat16) == choose_backend("fa3", HOPPER, torch.bfloat16) == "fa3"
    assert calls == [{"causal": True, "window_size": (63, 0), "deterministic": False}], "it is tried once"
    assert not suits("fa3", HOPPER, torch.float32)
    q, k, v, _ = draw(1, 40, 40, 2, 1)
    torch.testing.assert_close(attention(q, k, v, 0, "fa3"), attention(q, k, v, 0, "sdpa"))
    assert calls[-1]["window_size"] == (-1, 0)


def test_fa3_is_exact_in_a_deterministic_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_fa3(monkeypatch)
    q, k, v, _ = draw(1, 8, 8, 1, 1)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    attention(q, k, v, 0, "fa3")
    assert calls[-1]["deterministic"] is True


@pytest.mark.parametrize("fails", ["missing", "broken", "wrong"])
def test_flex_takes_over_where_fa3_fails(hopper: None, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    monkeypatch.setattr(attention_module, "_flex", lambda q, k, v, window: attention(q, k, v, window, "sdpa"))
    says = {"missing": "ModuleNotFoundError", "broken": "TypeError", "wrong": "not close"}[fails]
    if fails == "missing":
        monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    elif fails == "broken":
        fake_fa3(monkeypatch)
        monkeypatch.setattr(sys.modules["flash_attn_interface"], "flash_attn_func", lambda q, k, v: q)
    else:
        fake_fa3(monkeypatch, wrong=0.5)
    assert choose_backend("auto", HOPPER, torch.bfloat16) == "flex"
    assert says in trouble("fa3", HOPPER, torch.bfloat16)
    with pytest.raises(ValueError, match="invalid attention 'fa3': it fails here .*; expected auto or sdpa"):
        choose_backend("fa3", HOPPER, torch.bfloat16)


def test_sdpa_without_windows_takes_over_where_flex_fails(hopper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(q, k, v, window):
        raise RuntimeError("Failed to find C compiler\nand a long trace")

    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    monkeypatch.setattr(attention_module, "_flex", no_compiler)
    backend = choose_backend("auto", HOPPER, torch.bfloat16)
    assert (backend, best_window_pattern(backend)) == ("sdpa", "L")
    assert trouble("flex", HOPPER, torch.bfloat16) == "it fails here (RuntimeError: Failed to find C compiler)"


@on_cuda
def test_this_gpu_runs_what_suits_it() -> None:
    assert trouble("flex", torch.device("cuda"), torch.bfloat16) == ""


def naive_with_memory(q: Tensor, k: Tensor, v: Tensor, window: int, memory: MemoryEntries) -> Tensor:
    """Attention to memory entries and tokens as it is defined: one query after the other, in fp64."""
    B, T, H, _ = q.shape
    k, v, keys, values = (t.double().repeat_interleave(H // k.shape[2], dim=2) for t in (k, v, memory.keys, memory.values))
    bias = memory.bias.double().repeat_interleave(H // memory.bias.shape[1], dim=1)
    y = torch.empty(q.shape, dtype=torch.float64)
    for b, position in itertools.product(range(B), range(T)):
        seen = slice(max(0, position - window + 1) if window else 0, position + 1)
        scores = torch.einsum("he,she->hs", q[b, position].double(), torch.cat([keys[b], k[b, seen]])) / q.shape[-1] ** 0.5
        scores[:, : keys.shape[1]] += bias[b]
        y[b, position] = torch.einsum("hs,she->he", scores.softmax(-1), torch.cat([values[b], v[b, seen]]))
    return y


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.sampled_from((1, 2, 31, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 3)),
    entries=st.sampled_from((0, 1, 40)),
    heads=st.sampled_from(((2, 2), (4, 2), (3, 1))),
    window=st.sampled_from((0, 1, 20, QUERY_BLOCK, 1000)),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_attention_with_memory_is_that_of_its_definition(
    tokens: int, entries: int, heads: tuple[int, int], window: int, shared: bool, seed: int
) -> None:
    generator, (H, G) = torch.Generator().manual_seed(seed), heads
    q, k, v, keys, values = (
        torch.randn(2, n, h, 8, generator=generator) for n, h in ((tokens, H), (tokens, G), (tokens, G), (entries, G), (entries, G))
    )
    bias = torch.randn(2, 1 if shared else G, entries, generator=generator)
    bias[torch.rand(bias.shape, generator=generator) < 0.2] = float("-inf")  # hidden
    memory = MemoryEntries(keys, values, bias)
    expected = naive_with_memory(q, k, v, window, memory).float()
    for trained in (False, True):
        with torch.set_grad_enabled(trained):
            torch.testing.assert_close(attention_with_memory(q, k, v, window, memory), expected, atol=2e-6, rtol=1e-5)
