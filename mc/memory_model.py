"""Memory model: a language model with its GistNet and LensNet, which training, evaluation and sessions share.

Shapes: `B` rows, `T` tokens, `V` layouts of a row, `W` entries, `F` blocks that may be compressed, `D` width. Layout v of row b
is at v·B + b wherever layouts are stacked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from mc.config import MCConfig
from mc.layout.layout import Layout
from mc.nets.gist_bank import BankShape, GistBank, Positions, assemble, bank_index, build
from mc.nets.gistnet import GistNet
from mc.nets.layered_bank import LayeredBank, build_layered, gather, score_layered
from mc.nets.layered_gists import LayeredGistNet
from mc.nets.layered_lens import LayeredLensNet
from mc.nets.lensnet import LensNet, bank_keys, score_levels
from mc.row_plan import RowPlan
from nanochat.model.attention import EagerAttention
from nanochat.model.gpt import GPT, Embedded, Rotary
from nanochat.profiling.timers import OpenSpan, untimed

Bank = GistBank | LayeredBank  # of rows of one shape


class PlainRows(NamedTuple):
    """Forward pass of rows without compression."""

    tokens: Tensor  # int64 [B,T]
    embedded: Embedded
    hidden: Tensor  # [B,T,D], what the head reads
    middle: Tensor  # [B,T,D], after the middle layer
    inputs: list[Tensor]  # [B,T,D] before each layer
    rotary: Rotary


class CompressedRows(NamedTuple):
    """Forward pass of Working Contexts.

    Of layered gists only the P tokens after the blocks that may be compressed are read: what comes before is keys and values.
    """

    entries: Embedded  # [V·B,P,·]; P = W, but for layered gists
    hidden: Tensor  # [V·B,P,D]
    rotary: Rotary


class MemoryModel(nn.Module):
    """Language model `model` with the gists of `gistnet` and the scores of `lensnet`, for rows of `seq_len` tokens.

    `plan` says how rows are compressed in training. Forward passes are eager unless `compiled`: those of plain rows for each shape, those
    of layouts for any width.
    """

    spans: OpenSpan = staticmethod(untimed)

    def __init__(self, model: GPT, config: MCConfig, seq_len: int) -> None:
        super().__init__()
        self.model, self.config, self.plan = model, config, RowPlan(config, seq_len)
        shape, dtype = model.config, config.aux_dtype(model.dtype)
        self.gistnet: GistNet | LayeredGistNet
        lensnet: LensNet | LayeredLensNet
        if config.gist.layered:
            self.gistnet = LayeredGistNet(shape.depth, shape.key_heads, shape.head_dim, config.geometry)
            lensnet = LayeredLensNet(shape.depth, shape.heads)
        else:
            self.gistnet = GistNet(config.gist, shape.width, dtype)
            lensnet = LensNet(config.lens, shape.width, config.geometry, dtype)
        self.focus: nn.Module = nn.ModuleDict({"lensnet": lensnet})  # its name in checkpoints
        self._positions = Positions(config.positional_type, model.config.head_dim, model.dtype)

    @property
    def layered(self) -> bool:
        """True if gists are keys and values of every layer."""
        return self.config.gist.layered

    @property
    def lensnet(self) -> LensNet | LayeredLensNet:
        """LensNet."""
        return self.focus.lensnet

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.wte.weight.device

    def init_weights(self, generator: torch.Generator | None = None) -> MemoryModel:
        """Initialises GistNet and LensNet, but not the model. Returns self."""
        self.gistnet.init_weights(generator)
        self.lensnet.init_weights(generator)
        return self

    def forward_plain(self, tokens: Tensor, compiled: bool = False) -> PlainRows:
        """Reads rows int64 [B,T] without compression."""
        rotary = self.model.rotary(0, tokens.shape[1])
        embedded = self.model.embed(tokens)
        inputs: list[Tensor] = []
        x, middle = self.model.layers(embedded, rotary, attn_hook=None if compiled else EagerAttention(), inputs=inputs)
        return PlainRows(tokens, embedded, self.model.finish(x, middle), middle, inputs, rotary)

    def build_bank(self, plain: PlainRows, shape: BankShape | None = None, compiled: bool = False) -> Bank:
        """The gist bank of rows, of `shape`, by default that of `plan`."""
        shape = shape or self.plan.shape
        if self.layered:
            heads = self.model.heads(plain.embedded, plain.inputs, plain.rotary, compiled)
            with self.spans("gistnet"):
                return build_layered(plain.tokens, plain.embedded, heads, self.gistnet, shape)
        return build(plain.embedded, self._make_gists, shape, plain.middle if self.gistnet.reads_hidden else None)

    def _make_gists(self, children: Tensor, hidden: Tensor | None) -> Tensor:
        with self.spans("gistnet"):
            return self.gistnet(children, hidden)

    def forward_layouts(self, bank: Bank, layout: Layout, index: Tensor | None = None, compiled: bool = False) -> CompressedRows:
        """Reads the Working Contexts `layout` [V·B,W]; `index` is `bank_index` of it, if known."""
        index = bank_index(layout, bank.shape) if index is None else index
        if isinstance(bank, LayeredBank):
            return self._read_tail(bank, index, compiled)
        with self.spans("variant_pack"):
            entries = assemble(bank, index)
        with self.spans("positional"):
            rotary = self._positions(bank.shape, layout, index)
        return CompressedRows(entries, self.model.backbone(entries, rotary, None if compiled else EagerAttention(), compiled), rotary)

    def _read_tail(self, bank: LayeredBank, index: Tensor, compiled: bool) -> CompressedRows:
        """Reads the tokens after the blocks behind the entries at `index` [V·B,W] before them."""
        shape = bank.shape
        tail = shape.length - shape.gisted
        with self.spans("variant_pack"):
            memory = gather(bank.entries, index[:, :-tail]).by_layer()
            if compiled and self.model.compiled:
                memory = [entries.of_any_number() for entries in memory]
            copies = len(index) // len(bank.embedded.x)
            entries = Embedded(*(part[:, -tail:].repeat(copies, *[1] * (part.ndim - 1)) for part in bank.embedded))
        rotary = self.model.rotary(shape.gisted, shape.length)
        x, middle = self.model.layers(entries, rotary, attn_hook=None if compiled else EagerAttention(), memory=memory)
        return CompressedRows(entries, self.model.finish(x, middle), rotary)

    def score_blocks(self, bank: Bank, levels: Tensor, decision: int, width: int) -> Tensor:
        """LensNet's score of each block, fp32 [B,F], in Working Contexts of `width` entries up to token `decision`.

        `levels` int64 [B,F] are those of the blocks. A layered LensNet scores for the tokens up to the next refocus.
        """
        if not isinstance(bank, LayeredBank):
            return score_levels(self.lensnet, bank, bank_keys(self.lensnet, bank), levels, decision, width, self.spans)
        with self.spans("lensnet"):
            return score_layered(self.lensnet, bank, levels, decision, self.config.session.mc_infer_refocus_interval)
