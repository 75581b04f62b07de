"""Causal attention behind one function, with windows, grouped queries and a KV cache, on four backends.

Shapes: `B` rows, `T` queries, `S` keys, `H` query heads, `G` key/value heads (H a multiple of G), `E` head size.
A window of `w` lets position p see the `w` positions p−w+1 … p; 0 means no limit.

- `sdpa`: PyTorch's fused attention, on every device. A window needs an explicit mask, which is slow.
- `blocked`: matmuls over blocks of queries, for CPUs. PyTorch's fused CPU kernel does not reach the speed of the
  CPU's bf16 matmuls; plain matmuls do, and each block skips the keys that none of its queries can see.
- `flex`: FlexAttention, for windows on CUDA. `fa3`: FlashAttention 3, if installed (Hopper). Both are tried before they are chosen.
"""

from __future__ import annotations

import functools
import subprocess
from typing import Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

AttentionBackend = Literal["sdpa", "blocked", "flex", "fa3"]
FASTEST: tuple[AttentionBackend, ...] = ("fa3", "flex")  # on CUDA, fastest first, where they run
QUERY_BLOCK = 128  # queries that matmuls on a CPU take at once; 128 and 256 tie at T = 512, 128 wins with windows


def choose_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """Resolves `auto` for `device`. Raises `ValueError` if `wanted` is unknown or does not run on `device`."""
    if wanted == "auto":
        if device.type == "cpu":
            return "blocked"
        return next((b for b in FASTEST if suits(b, device, dtype) and not trouble(b, device, dtype)), "sdpa")
    if wanted not in get_args(AttentionBackend):
        raise ValueError(f"invalid attention {wanted!r}; expected auto, {', '.join(get_args(AttentionBackend))}")
    why = trouble(wanted, device, dtype) if suits(wanted, device, dtype) else f"it does not run on {device} in {dtype}"
    if why:
        raise ValueError(f"invalid attention {wanted!r}: {why}; expected auto or sdpa")
    return wanted  # type: ignore[return-value]


def suits(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `backend` is made for `device` and `dtype`."""
    if backend == "fa3":
        return device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] == 9
    return backend != "flex" or device.type == "cuda"


@functools.lru_cache(maxsize=16)
def trouble(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why `backend`, which suits `device`, fails there; empty if it does not. One that is an extra or compiled is tried."""
    if backend not in FASTEST:
        return ""
    try:
        _try_out(backend, device, dtype)  # type: ignore[arg-type]
    except (ImportError, OSError, AttributeError, TypeError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        lines = str(error).strip().splitlines()
        return f"it fails here ({type(error).__name__}{': ' + lines[0] if lines else ''})"
    return ""


def _try_out(backend: AttentionBackend, device: torch.device, dtype: torch.dtype) -> None:
    """Forward and backward of a small attention with a window, compared with `sdpa`. Raises what `backend` raises, or `AssertionError`."""
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, dy = (torch.randn(1, 256, 2, 128, device=device, dtype=dtype, generator=generator) for _ in range(4))
    results = []
    for each in (backend, "sdpa"):
        inputs = [part.clone().requires_grad_() for part in (q, k, v)]
        with torch.enable_grad():
            y = attention(*inputs, 64, each)
        results.append([y.detach(), *torch.autograd.grad(y, inputs, dy)])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0.1, atol=0.1)


def best_window_pattern(backend: AttentionBackend) -> str:
    """Fastest window pattern: windows pay off only if the kernel skips the keys outside them."""
    return "SSSL" if backend in ("flex", "fa3") else "L"


def eager_backend(backend: AttentionBackend) -> AttentionBackend:
    """Backend for uncompiled layers, whose shapes vary: `sdpa` instead of FlexAttention, which is compiled for each shape."""
    return "sdpa" if backend == "flex" else backend


class AttentionHook(Protocol):
    """Replacement for the causal attention of a model's layers, such as a KV cache. Layers with a hook run uncompiled."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """Attention output [B,T,H,E] of layer number `layer` for q [B,T,H,E], k and v [B,T,G,E]."""


class EagerAttention:
    """Attention hook for plain causal attention: nothing is compiled for a width that occurs once."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """See `AttentionHook`."""
        return attention(q, k, v, window, eager_backend(backend))


class UntracedAttention:
    """Attention hook for plain causal attention in layers that are compiled for any width: the attention itself is called as it is."""

    @torch._disable_dynamo
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend) -> Tensor:
        """See `AttentionHook`."""
        return attention(q, k, v, window, backend)


class MemoryEntries(NamedTuple):
    """Entries of a memory as one layer sees them: all come before the queries of their row.

    Rotated `keys` and `values` are [B,M,G,E]; `bias`, fp32 [B,G or 1,M], is added to their scores: −inf hides an entry, log n gives
    one that stands for n equal tokens the attention of all of them.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor

    def of_any_number(self) -> MemoryEntries:
        """Tells the compiler that the number of entries changes: it then compiles a layer for all of them at once."""
        for tensor, dim in ((self.keys, 1), (self.values, 1), (self.bias, 2)):
            torch._dynamo.maybe_mark_dynamic(tensor, dim)
        return self


def attention(q: Tensor, k: Tensor, v: Tensor, window: int, backend: AttentionBackend, mask: Tensor | None = None) -> Tensor:
    """Causal attention. q [B,T,H,E], k and v [B,S,G,E] → [B,T,H,E], all in one dtype.

    The queries are the last T of the S positions. `mask` [B,1 or H,T,S] is added to the scores instead (see `cache_mask`).
    """
    if q.shape[1] == 1:
        # One query sees every key in its window, so only the unused slots of a cache are masked. (A window of 0: all keys.)
        if mask is None:
            k, v = k[:, -window:], v[:, -window:]
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, G, S, E)
        return full_attention(q.reshape(q.shape[0], k.shape[1], -1, q.shape[3]), k, v, mask).reshape(q.shape)
    if mask is None:
        if backend == "blocked":
            return _blocked(q, k, v, window)
        if backend == "flex" and q.shape[1] == k.shape[1]:
            return _flex(q, k, v, window)
        if backend == "fa3":
            return _fa3(q, k, v, window)
        if q.shape[1] != k.shape[1] or 0 < window < k.shape[1]:
            mask = _position_mask(q.shape[1], k.shape[1], window, q.device)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, E)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped).transpose(1, 2)


def _fa3(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from flash_attn_interface import flash_attn_func

    exact = torch.are_deterministic_algorithms_enabled()  # else its backward adds in an order that varies
    out = flash_attn_func(q, k, v, causal=True, window_size=(window - 1 if window > 0 else -1, 0), deterministic=exact)
    return out[0] if isinstance(out, tuple) else out  # some versions return the logarithms of the softmax's sums too


def attention_with_memory(q: Tensor, k: Tensor, v: Tensor, window: int, memory: MemoryEntries) -> Tensor:
    """Attention of T tokens to [memory entries | tokens up to themselves], one softmax over both: as `attention`, for T = S.

    The window holds for tokens only. Matmuls, because fused kernels accept no bias that is trained.
    """
    if q.device.type == "cpu" and not torch.is_grad_enabled():
        return _memory_blocks(q, k, v, window, memory)
    (B, T, H, E), G = q.shape, k.shape[2]
    # Query heads that share a key head take the place of further queries.
    q = (q * E**-0.5).transpose(1, 2).reshape(B, G, H // G * T, E)
    k, v, keys, values = (part.transpose(1, 2) for part in (k, v, memory.keys, memory.values))  # (B, G, ·, E)
    hidden = _hidden_tokens(T, window, H // G, q.device)
    far = q @ keys.transpose(2, 3) + memory.bias.unsqueeze(2).to(q.dtype)
    near = (q @ k.transpose(2, 3)).masked_fill(hidden, float("-inf"))
    far, near = torch.cat([far, near], dim=-1).softmax(-1).split([far.shape[-1], T], dim=-1)
    return (far @ values + near @ v).view(B, H, T, E).transpose(1, 2)


def _memory_blocks(q: Tensor, k: Tensor, v: Tensor, window: int, memory: MemoryEntries) -> Tensor:
    """`attention_with_memory` in blocks of queries, without keys that a whole block does not see: in half of the time on a CPU."""
    (B, T, H, E), G, M = q.shape, k.shape[2], memory.keys.shape[1]
    repeat = H // G
    q = (q * E**-0.5).view(B, T, G, repeat, E).transpose(1, 2).reshape(B * G, T * repeat, E)
    k, v = (torch.cat(parts, dim=1).transpose(1, 2).reshape(B * G, M + T, E) for parts in ((memory.keys, k), (memory.values, v)))
    bias = F.pad(memory.bias.to(q.dtype).expand(B, G, M).reshape(B * G, 1, M), (0, T))
    y = torch.empty_like(q)
    for rows, keys, masked in _blocks(T, T, repeat, window, QUERY_BLOCK):
        seen, read = (torch.cat([part[:, :M], part[:, M + keys.start : M + keys.stop]], dim=1) if keys.start else part for part in (k, v))
        S = M + keys.stop - keys.start
        scores = torch.baddbmm(bias[..., :S], q[:, rows], seen[:, :S].transpose(1, 2))
        hidden = _hidden((rows.stop - rows.start) // repeat, keys.stop - masked, window, repeat, q.device)
        scores[..., M + masked - keys.start :].masked_fill_(hidden, float("-inf"))
        y[:, rows] = torch.bmm(scores.softmax(-1), read[:, :S])
    return y.view(B, G, T, repeat, E).transpose(1, 2).reshape(B, T, H, E)


def visible(query: Tensor, key: Tensor, window: int) -> Tensor:
    """True if a query at position `query` sees the key at position `key`; the two int64 tensors broadcast."""
    causal = key <= query
    return causal & (key > query - window) if window > 0 else causal


def _position_mask(T: int, S: int, window: int, device: torch.device) -> Tensor:
    """bool [T,S], True if a query sees a key; the queries are the last T of S positions."""
    return visible(torch.arange(S - T, S, device=device)[:, None], torch.arange(S, device=device), window)


def _hidden_tokens(T: int, window: int, repeat: int, device: torch.device) -> Tensor:
    """bool [repeat·T, T], True if a query does not see a key; `repeat` query heads follow each other."""
    return ~_position_mask(T, T, window, device).repeat(repeat, 1)


def cache_mask(T: int, S: int, window: int, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask [B,1,T,S] for a cache of S slots: 0 if a query of row b sees a slot, else −inf.

    Row b uses the first `lengths[b]` slots (int64 [B]); its queries are the last T of these positions.
    """
    query = (lengths[:, None] - T + torch.arange(T, device=lengths.device))[:, :, None]  # (B, T, 1)
    seen = visible(query, torch.arange(S, device=lengths.device), window)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))[:, None]


def full_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of every query to every key: q [...,T,E], k and v [...,S,E] → as q. `mask` is added to the scores.

    For one query per head, q is [B,G,H/G,E]: query heads that share a key head take the place of time, so keys are never repeated.
    """
    if q.device.type == "cpu" and q.dtype != torch.float32 and not torch.is_grad_enabled():
        # PyTorch's fused CPU kernel takes twice as long in bf16 as these matmuls, and ten times as long for one query.
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))
        return torch.matmul((scores if mask is None else scores + mask).softmax(-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@functools.lru_cache(maxsize=16)
def _flex_mask(T: int, window: int, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda _batch, _head, query, key: visible(query, key, window), None, None, T, T, device=device)


@functools.lru_cache(maxsize=1)
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


# Excluded from tracing: compiling the construction of the mask takes most of a minute.
# (torch.compiler.disable imports the compiler at once, which takes 2 s and fixes the location of its cache.)
@torch._disable_dynamo
def _flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    mask = _flex_mask(q.shape[2], window, q.device)
    return _compiled_flex()(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _blocked(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Converts to the layout of the matmuls and back; compiled code fuses the copies into what produces their inputs."""
    (B, T, H, E), (S, G) = q.shape, k.shape[1:3]
    repeat = H // G
    q = (q * E**-0.5).reshape(B, T, G, repeat, E).transpose(1, 2).reshape(B * G, T * repeat, E)
    k, v = (t.transpose(1, 2).reshape(B * G, S, E) for t in (k, v))
    # The block size is an argument, so that compiled code cached for another size is not used.
    y = torch.ops.nanochat.blocked_attention(q, k, v, repeat, window, QUERY_BLOCK)[0]
    return y.view(B, G, T, repeat, E).transpose(1, 2).reshape(B, T, H, E)


def _blocks(queries: int, keys: int, repeat: int, window: int, size: int) -> list[tuple[slice, slice, int]]:
    """(rows of q, keys they may see, first of these keys that needs a mask) of each block of positions.

    The `queries` positions are the last of `keys`; each has `repeat` adjacent rows in q.
    """
    blocks, before = [], keys - queries
    for start in range(before - before % size, keys, size):
        begin, end = max(start, before), min(start + size, keys)
        first = max(0, begin - window + 1) if window > 0 else 0
        # Without a window a block hides keys of its own positions only.
        blocks.append((slice((begin - before) * repeat, (end - before) * repeat), slice(first, end), begin if window == 0 else first))
    return blocks


@functools.lru_cache(maxsize=256)
def _hidden(queries: int, keys: int, window: int, repeat: int, device: torch.device) -> Tensor:
    """bool [queries·repeat, keys], True if one of the last `queries` positions does not see one of `keys` positions."""
    return ~_position_mask(queries, keys, window, device).repeat_interleave(repeat, dim=0)


@torch.library.custom_op("nanochat::blocked_attention", mutates_args=())
def _blocked_forward(q: Tensor, k: Tensor, v: Tensor, repeat: int, window: int, size: int) -> list[Tensor]:
    """q [N, T·repeat, E], scaled, k and v [N,S,E] → [output as q, probabilities [N, rows, keys] of each block for the backward]."""
    out, saved = torch.empty_like(q, memory_format=torch.contiguous_format), []
    for rows, keys, masked in _blocks(q.shape[1] // repeat, k.shape[1], repeat, window, size):
        scores = torch.bmm(q[:, rows], k[:, keys].transpose(1, 2))
        positions = (rows.stop - rows.start) // repeat
        hidden = _hidden(positions, keys.stop - masked, window, repeat, q.device)
        scores[..., masked - keys.start :].masked_fill_(hidden, float("-inf"))
        saved.append(scores.softmax(-1))
        out[:, rows] = torch.bmm(saved[-1], v[:, keys])
    return [out, *saved]


@_blocked_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, repeat: int, window: int, size: int) -> list[Tensor]:
    blocks = _blocks(q.shape[1] // repeat, k.shape[1], repeat, window, size)
    saved = [q.new_empty(q.shape[0], rows.stop - rows.start, keys.stop - keys.start) for rows, keys, _ in blocks]
    return [q.new_empty(q.shape), *saved]


@torch.library.custom_op("nanochat::blocked_attention_backward", mutates_args=())
def _blocked_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, saved: list[Tensor], repeat: int, window: int, size: int
) -> list[Tensor]:
    """Gradients [dq, dk, dv] of `blocked_attention`."""
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    # A key's gradient sums over several blocks, so it is kept in fp32.
    dk, dv = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
    for (rows, keys, _), p in zip(_blocks(q.shape[1] // repeat, k.shape[1], repeat, window, size), saved, strict=True):
        dv[:, keys] += torch.bmm(p.transpose(1, 2), dy[:, rows])
        dp = torch.bmm(dy[:, rows], v[:, keys].transpose(1, 2))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        dq[:, rows] = torch.bmm(ds, k[:, keys])
        dk[:, keys] += torch.bmm(ds.transpose(1, 2), q[:, rows])
    return [dq, dk.to(k.dtype), dv.to(v.dtype)]


@_blocked_backward.register_fake
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, saved: list[Tensor], repeat: int, window: int, size: int) -> list[Tensor]:
    return [q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)]


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, ctx.repeat, ctx.window, ctx.size = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx, grads):
    q, k, v, *saved = ctx.saved_tensors
    return *_blocked_backward(grads[0].contiguous(), q, k, v, saved, ctx.repeat, ctx.window, ctx.size), None, None, None


_blocked_forward.register_autograd(_backward, setup_context=_save_for_backward)
