"""Causal attention behind one function, with windows, grouped queries and a KV cache, on four backends.

Shapes: `B` rows, `T` queries, `S` keys, `H` query heads, `G` key/value heads (H a multiple of G), `E` head size.
A window of `w` lets position p see the `w` positions p−w+1 … p; 0 means no limit.

- `sdpa`: PyTorch's fused attention, everywhere. A window needs an explicit mask there, which is slow.
- `blocked`: matmuls over blocks of queries, for CPUs. PyTorch's fused CPU kernel does not reach the speed of the
  CPU's bf16 matmuls; plain matmuls do, and blocks skip the keys that no query of theirs can see.
- `flex`: FlexAttention, for windows on CUDA. `fa3`: FlashAttention 3, where it can be imported (Hopper).
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["sdpa", "blocked", "flex", "fa3"]
QUERY_BLOCK = 128  # queries in a block of the `blocked` backend; 128 and 256 tie at T = 512, 128 wins with windows


def choose_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """Resolves `auto` for `device`; otherwise checks that `wanted` runs there. Raises `ValueError` if not."""
    fa3 = device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] == 9
    fa3 = fa3 and importlib.util.find_spec("flash_attn_interface") is not None
    available = {"sdpa": True, "blocked": True, "flex": device.type == "cuda", "fa3": fa3}
    if wanted == "auto":
        if device.type == "cuda":
            return "fa3" if fa3 else "flex"
        return "blocked" if device.type == "cpu" else "sdpa"
    if wanted not in available:
        raise ValueError(f"attention {wanted!r} is none of auto, {', '.join(available)}")
    if not available[wanted]:
        raise ValueError(f"attention {wanted!r} cannot run on {device} in {dtype}; use auto or sdpa")
    return wanted  # type: ignore[return-value]


def best_window_pattern(backend: Backend) -> str:
    """The window pattern the backend is fast at: windows pay where the kernel skips what is outside them."""
    return "SSSL" if backend in ("flex", "fa3") else "L"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    backend: Backend,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Causal attention. q [B,T,H,E], k and v [B,S,G,E] → [B,T,H,E], all in one dtype.

    Without `lengths` the queries are the last T of the S positions. With `lengths` (int64 [B]) row b's keys
    beyond `lengths[b]` are unused slots of a cache, and its queries are the last T of `lengths[b]` positions.
    `mask` is what `cache_mask` makes of window and lengths, for a cache whose layers share it.
    """
    if lengths is not None:
        mask = cache_mask(q.shape[1], k.shape[1], window, lengths, q.dtype)
    if q.shape[1] == 1:
        # One query sees every key in its window: nothing to mask but the unused slots of a cache. (A window of 0: all keys.)
        return _one_query(q, k, v, mask) if mask is not None else _one_query(q, k[:, -window:], v[:, -window:], None)
    if mask is not None:
        return _sdpa(q, k, v, mask)
    if backend == "blocked":
        return torch.ops.nanochat.blocked_attention(q, k, v, window)[0]
    if backend == "flex" and q.shape[1] == k.shape[1]:
        return _flex(q, k, v, window)
    if backend == "fa3":
        return _fa3(q, k, v, window)
    if q.shape[1] == k.shape[1] and not 0 < window < k.shape[1]:
        return _sdpa(q, k, v, None)
    return _sdpa(q, k, v, _position_mask(q.shape[1], k.shape[1], window, q.device))


def _position_mask(T: int, S: int, window: int, device: torch.device) -> Tensor:
    """bool [T,S], True where a query sees a key; the queries are the last T of S positions."""
    query = torch.arange(S - T, S, device=device)[:, None]
    key = torch.arange(S, device=device)[None, :]
    seen = key <= query
    return seen & (key > query - window) if window > 0 else seen


def cache_mask(T: int, S: int, window: int, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """[B,1,T,S] to be added to the scores: 0 where a query of row b sees a slot of its cache, else −inf. See `attention`."""
    query = (lengths[:, None] - T + torch.arange(T, device=lengths.device))[:, :, None]  # (B, T, 1)
    key = torch.arange(S, device=lengths.device)[None, None, :]
    seen = key <= query
    if window > 0:
        seen = seen & (key > query - window)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))[:, None]


def _one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of T = 1. The query heads that share a key head stand where time would, so keys are never repeated."""
    q, k, v = q.reshape(q.shape[0], k.shape[2], -1, q.shape[3]), k.transpose(1, 2), v.transpose(1, 2)  # (B, G, H/G or S, E)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(q.shape[0], 1, -1, q.shape[3])


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, E)
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return y.transpose(1, 2)


def _fa3(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    from flash_attn_interface import flash_attn_func

    return flash_attn_func(q, k, v, causal=True, window_size=(window - 1 if window > 0 else -1, 0))


@functools.lru_cache(maxsize=16)
def _flex_mask(T: int, window: int, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(_batch, _head, query, key):
        causal = key <= query
        return causal & (key > query - window) if window > 0 else causal

    return create_block_mask(seen, None, None, T, T, device=device)


@functools.lru_cache(maxsize=1)
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


# Apart from the code around it: the compiler would otherwise trace the making of the mask, which takes it most of a minute.
# (torch.compiler.disable would do, but imports the compiler at once, which takes 2 s and settles where its cache lies.)
@torch._disable_dynamo
def _flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    mask = _flex_mask(q.shape[2], window, q.device)
    return _compiled_flex()(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _block_ranges(T: int, window: int) -> list[tuple[int, int, int]]:
    """(first query, end of queries, first key) of each block; its keys end where its queries do."""
    ranges = []
    for start in range(0, T, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, T)
        ranges.append((start, end, max(0, start - window + 1) if window > 0 else 0))
    return ranges


def _fold(x: Tensor, heads: int) -> Tensor:
    """[B,T,H,E] → contiguous [B·G, T, H/G, E]: query heads that share a key head lie side by side."""
    B, T, H, E = x.shape
    return x.reshape(B, T, heads, H // heads, E).transpose(1, 2).reshape(B * heads, T, H // heads, E).contiguous()


def _unfold(x: Tensor, B: int) -> Tensor:
    """The inverse of `_fold`: [B·G, T, H/G, E] → [B,T,H,E]."""
    BG, T, R, E = x.shape
    return x.view(B, BG // B, T, R, E).transpose(1, 2).reshape(B, T, (BG // B) * R, E).contiguous()


@functools.lru_cache(maxsize=256)
def _hidden(queries: int, keys: int, window: int, repeat: int, device: torch.device) -> Tensor:
    """bool [queries·repeat, keys], True where one of the last `queries` positions does not see one of `keys` positions."""
    return ~_position_mask(queries, keys, window, device).repeat_interleave(repeat, dim=0)


@torch.library.custom_op("nanochat::blocked_attention", mutates_args=())
def _blocked(q: Tensor, k: Tensor, v: Tensor, window: int) -> list[Tensor]:
    """[output [B,T,H,E], probabilities of each block [B·G, queries·H/G, keys]]; the latter serve the backward."""
    B, T, H, E = q.shape
    offset = k.shape[1] - T  # keys before the first query (a cache)
    qf, kf, vf = _fold(q, k.shape[2]), _fold(k, k.shape[2]).squeeze(2), _fold(v, k.shape[2]).squeeze(2)
    qf = qf * E**-0.5
    out = torch.empty_like(qf)
    saved = []
    for start, end, first in _block_ranges(k.shape[1], window):
        if end <= offset:
            continue
        start = max(start, offset)
        block = qf[:, start - offset : end - offset].flatten(1, 2)  # (B·G, queries·H/G, E)
        scores = torch.bmm(block, kf[:, first:end].transpose(1, 2))
        # Without a window a block hides keys of its own positions only.
        own = start if window == 0 else first
        scores[..., own - first :].masked_fill_(_hidden(end - start, end - own, window, qf.shape[2], q.device), float("-inf"))
        p = scores.softmax(-1)
        out[:, start - offset : end - offset] = torch.bmm(p, vf[:, first:end]).view(qf.shape[0], -1, *qf.shape[2:])
        saved.append(p)
    return [_unfold(out, B), *saved]


@_blocked.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> list[Tensor]:
    B, T, H, E = q.shape
    S, G = k.shape[1:3]
    shapes = []
    for start, end, first in _block_ranges(S, window):
        if end > S - T:
            shapes.append(((end - max(start, S - T)) * (H // G), end - first))
    return [q.new_empty(B, T, H, E), *(q.new_empty(B * G, *shape) for shape in shapes)]


@torch.library.custom_op("nanochat::blocked_attention_backward", mutates_args=())
def _blocked_backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, saved: list[Tensor], window: int) -> list[Tensor]:
    """Gradients [dq, dk, dv] of `blocked_attention`, in the shapes of q, k and v."""
    B, T, H, E = q.shape
    G, scale = k.shape[2], E**-0.5
    offset = k.shape[1] - T
    qf, kf, vf = _fold(q, G), _fold(k, G).squeeze(2), _fold(v, G).squeeze(2)
    dyf = _fold(dy, G)
    dq = torch.empty_like(qf)
    # Each key collects from several blocks, so its sum is kept in fp32.
    dk, dv = torch.zeros_like(kf, dtype=torch.float32), torch.zeros_like(vf, dtype=torch.float32)
    blocks = [r for r in _block_ranges(k.shape[1], window) if r[1] > offset]
    for (start, end, first), p in zip(blocks, saved, strict=True):
        rows = slice(max(start, offset) - offset, end - offset)
        keys = slice(first, end)
        dyb = dyf[:, rows].flatten(1, 2)
        dv[:, keys] += torch.bmm(p.transpose(1, 2), dyb)
        dp = torch.bmm(dyb, vf[:, keys].transpose(1, 2))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        dq[:, rows] = (torch.bmm(ds, kf[:, keys]) * scale).view(qf.shape[0], -1, *qf.shape[2:])
        dk[:, keys] += torch.bmm(ds.transpose(1, 2), qf[:, rows].flatten(1, 2)) * scale
    dkf, dvf = (t.to(k.dtype).unsqueeze(2) for t in (dk, dv))
    return [_unfold(dq, B), _unfold(dkf, B), _unfold(dvf, B)]


@_blocked_backward.register_fake
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, saved: list[Tensor], window: int) -> list[Tensor]:
    return [q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)]


def _save_for_backward(ctx, inputs, output) -> None:
    q, k, v, window = inputs
    ctx.window, ctx.blocks = window, len(output) - 1
    ctx.save_for_backward(q, k, v, *output[1:])


def _backward(ctx, grads):
    q, k, v, *saved = ctx.saved_tensors
    dq, dk, dv = _blocked_backward(grads[0].contiguous(), q, k, v, saved, ctx.window)
    return dq, dk, dv, None


_blocked.register_autograd(_backward, setup_context=_save_for_backward)
