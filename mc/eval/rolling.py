"""Rolling evaluation of a layered memory: rows are read as a session reads them, and every position from the middle on is predicted.

A row is read piece by piece behind its Working Context; from the middle on the memory refocuses every `interval` tokens, and the
losses of all tokens count. Keys and values stay as they were computed when a token was read. At a refocus the Working Context is made
of the gists of all blocks before the last `recent` tokens, and of as many of these blocks raw as the budget allows, chosen by
condition:

- `gists`: none; `random`; `recency`: the newest;
- `lens`: those that LensNet scores highest; `attention`: by the hits of the newest queries on raw keys;
- `own`: the same of the next token's own queries, with a refocus before each token; `oracle`: of the queries until the next refocus,
  both behind the full history, which no memory has;
- `blocks`: as `lens`, without gists; `shuffled`: as `lens`, with the gists of another row.

`full` and `window` are the plain model's, which reads everything, or the last W tokens of everything (keys and values of a token are
computed once there, too).

Shapes: `B` rows, `T` tokens, `L` layers, `G` key heads, `H` query heads, `E` head size, `F` blocks, `W` entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mc.eval.row_eval import token_nll
from mc.memory_model import MemoryModel
from mc.nets.hits import entry_hits, token_hits
from mc.nets.layered_gists import LayeredEntries, join, tokens_as_entries, turned
from mc.nets.layered_lens import NEWEST, spread
from mc.nets.layered_read import Recorder
from mc.nets.matches import row_matches
from nanochat.model.attention import visible
from nanochat.model.gpt import GPT

Choice = Literal["gists", "random", "recency", "lens", "attention", "own", "oracle", "blocks", "shuffled"]
SHARE = 4  # of a row, that a Working Context holds when a memory is measured
PIECE = 256  # tokens of the first half that are read at once


@dataclass(frozen=True)
class Rolling:
    """Setting of a rolling evaluation: a Working Context of `width` entries, `recent` tokens and those since the refocus included."""

    width: int
    recent: int
    interval: int

    def __post_init__(self) -> None:
        if min(self.width, self.recent, self.interval) < 1 or self.recent + self.interval > self.width:
            raise ValueError(
                f"width {self.width} must hold recent {self.recent} tokens and those of an interval of {self.interval}, each at least 1"
            )


def rolling_setting(memory: MemoryModel) -> Rolling | None:
    """The setting at which a memory is measured: a quarter of a row, recent tokens as in training, the interval of its sessions.

    None if that leaves no room for a raw block beside them, or its gists are not layered.
    """
    plan, interval, K = memory.plan, memory.config.session.mc_infer_refocus_interval, memory.config.block_size
    width = plan.length // SHARE
    # Recent tokens begin with a block, and the gists of all blocks take room too.
    taken = plan.recent + K + interval + memory.config.gist.gist_slots * (plan.length // K)
    return Rolling(width, plan.recent, interval) if memory.layered and taken + K <= width else None


def measure_rolling(
    memory: MemoryModel, batches: Iterable[tuple[Tensor, Tensor]], setting: Rolling, choices: Sequence[Choice] = ("random", "lens")
) -> dict[str, Tensor]:
    """Mean losses of the second half of this process's rows, fp32 [N], by condition: `full`, `window` and `choices`."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ("full", "window", *choices)}
    for tokens, targets in batches:
        tokens, targets = tokens.to(memory.device), targets.to(memory.device)
        half = slice(tokens.shape[1] // 2, None)
        full, heads = plain_losses(memory.model, tokens, targets)
        window, _ = plain_losses(memory.model, tokens, targets, setting.width)
        losses = {"full": full[:, half], "window": window[:, half]}
        losses |= {choice: RollingRows(memory, setting, choice, tokens, heads).losses(targets) for choice in choices}
        for name, values in losses.items():
            parts[name].append(values.mean(1))
    return {name: torch.cat(values) for name, values in parts.items()}


@torch.no_grad()
def plain_losses(model: GPT, tokens: Tensor, targets: Tensor, window: int = 0) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Losses fp32 [B,T] of the plain model with the full history, or the last `window` tokens; and its heads, see `Recorder`."""
    recorder = Recorder(window=window)
    hidden = model.backbone(model.embed(tokens), model.rotary(0, tokens.shape[1]), recorder)
    return token_nll(model, hidden, targets), recorder.heads()


class RollingRows:
    """Rows int64 [B,T] that a memory reads under one condition; `full` are the heads of the plain rows (see `plain_losses`)."""

    def __init__(self, memory: MemoryModel, setting: Rolling, choice: Choice, tokens: Tensor, full: tuple[Tensor, Tensor, Tensor]) -> None:
        self.memory, self.setting, self.choice, self.tokens, self.full = memory, setting, choice, tokens, full
        self.interval = 1 if choice == "own" else setting.interval
        self._queries, self._keys, self._values = (torch.zeros_like(part) for part in full)
        self._generator = torch.Generator().manual_seed(0)
        self._gists: list[LayeredEntries] = []  # of each block, rotated by its position
        self._looks: Tensor | None = None  # of the newest tokens, [B,≤NEWEST,F,K]
        self._shown_far, self._shown_inside = 0, tokens.new_zeros(len(tokens), 0)  # blocks before the recent tokens; raw tokens in them
        self.read = 0  # tokens

    @torch.no_grad()
    def losses(self, targets: Tensor) -> Tensor:
        """Losses fp32 [B, T − T/2] of the second half."""
        T, parts = self.tokens.shape[1], []
        begin = T // 2
        while self.read < begin:
            self._step(min(PIECE, begin - self.read), self._working_context(None))
        while self.read < T:
            at, count = self.read, min(self.interval, T - self.read)
            hidden = self._step(count, self._working_context(self._chosen(count)))
            parts.append(token_nll(self.memory.model, hidden, targets[:, at : at + count]))
        return torch.cat(parts, dim=1)

    def _step(self, count: int, context: LayeredEntries) -> Tensor:
        """Reads the next `count` tokens behind `context`; returns their hidden states."""
        model, begin, end = self.memory.model, self.read, self.read + count
        previous = model.norm(model.wte(self.tokens[:, begin - 1]).to(model.dtype)) if begin else None
        recorder = Recorder(context.by_layer())
        hidden = model.backbone(model.embed(self.tokens[:, begin:end], previous), model.rotary(begin, end), recorder)
        for kept, new in zip((self._queries, self._keys, self._values), recorder.heads(), strict=True):
            kept[:, :, begin:end] = new
        self.read = end
        self._make_gists()
        if self.choice in ("lens", "blocks", "shuffled"):
            self._add_looks(context, begin, max(begin, end - NEWEST))
        return hidden

    def _make_gists(self) -> None:
        """Gists of the blocks that are complete now."""
        K, B = self.memory.config.block_size, len(self.tokens)
        before, now = len(self._gists), self.read // K
        if now == before:
            return
        new = tokens_as_entries(*(part[:, :, before * K : now * K] for part in (self._keys, self._values)))
        start = torch.arange(before * K, now * K, K, device=self.tokens.device)
        gists = self.memory.gistnet.of_tokens(new.each(lambda part: part.unflatten(2, (-1, K)).flatten(1, 2)), start.repeat(B))
        gists = gists.each(lambda part: part.unflatten(1, (B, -1)))
        for i, at in enumerate(start.tolist()):
            gist = gists.each(lambda part, i=i: part[:, :, i])
            self._gists.append(gist._replace(keys=turned(gist.keys, torch.tensor([at], device=start.device))))

    def _add_looks(self, context: LayeredEntries, begin: int, first: int) -> None:
        """Looks of the tokens read from `first` on at the complete blocks; those from `begin` on were read behind `context`."""
        K, B, far = self.memory.config.block_size, len(self.tokens), self._shown_far
        blocks = self.read // K
        if not blocks:
            return
        lensnet, own = self.memory.lensnet, tokens_as_entries(*(part[:, :, begin : self.read] for part in (self._keys, self._values)))
        place = torch.arange(begin, self.read, device=self.tokens.device)
        seen = F.pad(visible(place[first - begin :, None], place, 0), (context.keys.shape[2], 0), value=True)
        entries = join([context, own])
        found = lensnet.looks_by_hits(entry_hits(self._queries[:, :, first : self.read], entries, seen.expand(B, -1, -1)))
        inside, newest = self._shown_inside, self.read - far * K
        gists, raw, recent = found.split([found.shape[2] - inside.shape[1] - newest, inside.shape[1], newest], -1)
        below = spread(gists, self.memory.config.geometry.stride(1)) if gists.shape[2] else gists.new_zeros(*gists.shape[:2], far * K)
        looks = torch.cat([below, recent], dim=-1).scatter_add(-1, inside[:, None].expand(-1, found.shape[1], -1), raw)[..., : blocks * K]
        gisted = self.far * K
        matches = lensnet.looks_by_matches(row_matches(self.tokens, first, self.read, gisted))
        looks = (looks + F.pad(matches, (0, looks.shape[-1] - gisted))).unflatten(-1, (blocks, K))
        if self._looks is not None:
            looks = torch.cat([F.pad(self._looks, (0, 0, 0, blocks - self._looks.shape[-2])), looks], dim=1)
        self._looks = looks[:, -NEWEST:]

    @property
    def far(self) -> int:
        """Blocks before the recent tokens."""
        return max(0, self.read - self.setting.recent) // self.memory.config.block_size

    def _chosen(self, count: int) -> Tensor | None:
        """Blocks that are raw while the next `count` tokens are read, int64 [B,·], ascending; None = none."""
        K, slots = self.memory.config.block_size, self.memory.config.geometry.slots
        far, gists = self.far, self.choice != "blocks"
        room = self.setting.width - count - (self.read - far * K) - gists * far * slots
        most = min(far, max(0, room // (K - gists * slots)))
        if self.choice == "gists" or not most:
            return None
        return self._scores(far, count).topk(most, dim=-1).indices.sort(dim=-1).values

    def _scores(self, far: int, count: int) -> Tensor:
        """Score of each far block, [B,F]."""
        B, K, device = len(self.tokens), self.memory.config.block_size, self.tokens.device
        place = torch.arange(far, device=device)
        if self.choice == "random":
            return torch.rand(B, far, generator=self._generator).to(device)
        if self.choice == "recency":
            return place.expand(B, far)
        if self.choice in ("own", "oracle"):
            queries, keys, _ = self.full
            end = self.read + count
            hits = token_hits(queries[:, :, self.read : end], keys[:, :, :end], self.read)
            return hits[..., : far * K].unflatten(-1, (far, K)).amax(-1).sum((1, 2, 3))
        if self.choice == "attention":
            first = self.read - min(self.interval, NEWEST)
            hits = token_hits(self._queries[:, :, first : self.read], self._keys[:, :, : self.read], first)
            return hits[..., : far * K].unflatten(-1, (far, K)).amax(-1).sum((1, 2, 3))
        return self.memory.lensnet(self._looks[..., :far, :], self.interval)

    def _working_context(self, chosen: Tensor | None) -> LayeredEntries:
        """Entries before the next token: gists of the far blocks, the tokens of the `chosen` ones, and the recent tokens."""
        K, far, parts = self.memory.config.block_size, self.far, []
        self._shown_far, self._shown_inside = far, self.tokens.new_zeros(len(self.tokens), 0)
        tokens = tokens_as_entries(self._keys[:, :, : self.read], self._values[:, :, : self.read])
        if far and self.choice != "blocks":
            gists = join(self._gists[:far])
            if self.choice == "shuffled":
                gists = gists.each(lambda part: part.roll(part.shape[1] // 2, dims=1))
            if chosen is not None:
                hidden = torch.zeros(len(chosen), far, dtype=torch.bool, device=chosen.device).scatter_(1, chosen, True)
                hidden = hidden.repeat_interleave(self.memory.config.geometry.slots, dim=1)
                gists = gists._replace(bias=gists.bias.masked_fill(hidden[None, :, :, None], -math.inf))
            parts.append(gists)
        if chosen is not None:
            self._shown_inside = inside = (chosen[..., None] * K + torch.arange(K, device=chosen.device)).flatten(1)  # [B, ·]
            rows = torch.arange(len(chosen), device=chosen.device)[:, None]
            parts.append(tokens.each(lambda part: part[:, rows, inside]))
        return join([*parts, tokens.each(lambda part: part[:, :, far * K :])])
