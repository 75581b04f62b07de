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
        if mask is None:
            k, v = k[:, -window:], v[:, -window:]
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, G, S, E)
        return one_query(q.reshape(q.shape[0], k.shape[1], -1, q.shape[3]), k, v, mask).reshape(q.shape)
    if mask is not None:
        return _sdpa(q, k, v, mask)
    if backend == "blocked":
        return _blocked(q, k, v, window)
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


def one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one query per head over all keys: q [B,G,H/G,E], k and v [B,G,S,E], mask [B,1,1,S] or none → as q.

    The query heads that share a key head stand where time would, so keys are never repeated.
    """
    if q.device.type == "cpu" and q.dtype != torch.float32:
        # PyTorch's fused kernel for CPUs takes ten times as long for one query in bf16 as these matmuls.
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
        return torch.matmul((scores if mask is None else scores + mask).softmax(-1), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


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


def _blocked(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The layout that the matmuls want, and back; compiled code makes the copies as it writes what they are copies of."""
    (B, T, H, E), (S, G) = q.shape, k.shape[1:3]
    repeat = H // G
    q = (q * E**-0.5).reshape(B, T, G, repeat, E).transpose(1, 2).reshape(B * G, T * repeat, E)
    k, v = (t.transpose(1, 2).reshape(B * G, S, E) for t in (k, v))
    # The size of a block is an argument, so that code compiled and kept for another size is not used.
    y = torch.ops.nanochat.blocked_attention(q, k, v, repeat, window, QUERY_BLOCK)[0]
    return y.view(B, G, T, repeat, E).transpose(1, 2).reshape(B, T, H, E)


def _blocks(queries: int, keys: int, repeat: int, window: int, size: int) -> list[tuple[slice, slice, int]]:
    """(rows of q, keys they may see, the first of these keys that a mask must deal with) of each block of positions.

    The `queries` positions are the last of `keys`; each has `repeat` rows in q, side by side.
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
    """bool [queries·repeat, keys], True where one of the last `queries` positions does not see one of `keys` positions."""
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
    # A key collects from several blocks, so its sum is kept in fp32.
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


class EagerAttention:
    """Plain causal attention, given to a model as its cache: layers run uncompiled for it, so that nothing is compiled for a width
    that comes up once.

    `bias` is added to the scores, as in `GPT.backbone`; windows then count for nothing.
    """

    def __init__(self, bias: Tensor | None = None) -> None:
        self.bias = bias

    def layer(self, index: int) -> EagerAttention:
        """The same for each layer."""
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, backend: Backend) -> Tensor:
        """See `nanochat.model.attention.attention`."""
        eager: Backend = "sdpa" if backend == "flex" else backend  # FlexAttention is compiled for each shape
        return attention(q, k, v, window, eager, mask=self.bias)
