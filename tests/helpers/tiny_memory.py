"""Real memories of a few thousand parameters with every part of theirs at work, and layouts drawn without our samplers."""

from __future__ import annotations

import random

import torch
import torch.nn as nn
from torch import Tensor

from mc.config import LensLossConfig, MCConfig
from mc.layout.layout import Geometry, Layout
from mc.layout.positions import PositionType
from mc.memory_model import MemoryModel
from mc.nets.gist_bank import BankShape, Positions, assemble, bank_index, build
from mc.nets.gistnet import GistConfig, GistNet
from mc.nets.lensnet import LensConfig, LensNet
from mc.train.controller import MCController
from mc.train.variant_sampler import Variants, lay_out
from nanochat.model.gpt import GPT
from nanochat.train.optim import MuonAdamW, OptimFlags, check_coverage
from nanochat.train.schedule import TrainPlan
from tests.helpers.layouts import compression_of
from tests.helpers.tiny_model import tiny_model

WIDTH = 32
SEQ_LEN = 96  # 10 blocks of 8 tokens that may be compressed, 8 recent tokens, a horizon of 6 and 2 tokens of an incomplete block


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Gives every matrix random weights that keep the scale: what is zero at the start of training would hide its part."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.normal_(std=[1, *parameter.shape][-1] ** -0.5, generator=generator)


def tiny_gistnet(seed: int = 0, dtype: torch.dtype = torch.float32, **config) -> GistNet:
    """For models of width `WIDTH`."""
    net = GistNet(GistConfig(**({"gistnet_type": "transformer"} | config)), WIDTH, dtype)
    randomise(net, seed)
    return net


def tiny_lensnet(geometry: Geometry, seed: int = 0, dtype: torch.dtype = torch.float32, **config) -> LensNet:
    """For models of width `WIDTH`."""
    net = LensNet(LensConfig(**config), WIDTH, geometry, dtype)
    randomise(net, seed)
    return net


def tiny_gpt(seed: int = 0, dtype: torch.dtype = torch.float32, **config) -> GPT:
    """A model of width `WIDTH`."""
    return tiny_model(seed, dtype, **({"depth": 2, "aspect_ratio": 16, "max_seq_len": SEQ_LEN} | config))


def tiny_memory(
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    gist: dict | None = None,
    lens: dict | None = None,
    lens_loss: dict | None = None,
    model: dict | None = None,
    initialised: bool = False,
    **config,
) -> MCController:
    """A controller of rows of `SEQ_LEN` tokens in blocks of 8; `initialised`: its networks as at the start of training."""
    settings = {"block_size": 8, "mc_max_lod": 2, "mc_num_random_variants": 3, "mc_training_lod2_probability": 0.5, "mc_lens_every": 1}
    config = MCConfig(
        **(settings | config),
        gist=GistConfig(**({"gistnet_type": "transformer"} | (gist or {}))),
        lens=LensConfig(**(lens or {})),
        lens_loss=LensLossConfig(**(lens_loss or {})),
    )
    memory = MCController(tiny_gpt(seed, dtype, **(model or {})).requires_grad_(True), config, SEQ_LEN, seed)
    memory.init_weights(torch.Generator().manual_seed(seed))
    if not initialised:
        for number, net in enumerate((memory.gistnet, memory.focus.lensnet, memory.reconstruction)):
            if net is not None:
                randomise(net, seed + 1 + number)
    return memory


def tiny_batch(rows: int = 2, seed: int = 0, vocab: int = 61) -> tuple[Tensor, Tensor]:
    """(tokens, targets) int64 [rows, SEQ_LEN] of uniformly random tokens."""
    row = torch.randint(vocab, (rows, SEQ_LEN + 1), generator=torch.Generator().manual_seed(seed))
    return row[:, :-1], row[:, 1:]


def as_variants(memory: MemoryModel, levels: Tensor) -> Variants:
    """Variants with `levels` [V,B,F], all with equally many nodes of each level."""
    return lay_out(memory.plan, compression_of(levels[0, 0], memory.plan.tail, memory.config.geometry), levels)


def hidden_states(
    model: GPT, gistnet: GistNet, shape: BankShape, tokens: Tensor, layout: Layout, kind: PositionType = "gaussian"
) -> Tensor:
    """What the head reads at each entry of `layout` [V·B, W] of `tokens` [B,T]: [V·B, W, D]."""
    embedded = model.embed(tokens)
    middle = model.layers(embedded, model.rotary(0, tokens.shape[1]))[1] if gistnet.config.gistnet_type == "context" else None
    tree = build(embedded, gistnet, shape, middle)
    index = bank_index(layout, shape)
    rotary = Positions(kind, model.config.head_dim, model.dtype)(shape, layout, index)
    return model.backbone(assemble(tree, index), rotary)


def random_levels(rng: random.Random, blocks: int, block_size: int, max_lod: int) -> list[int]:
    """The level that covers each of `blocks` blocks in a random legal layout."""
    levels: list[int] = []
    while len(levels) < blocks:
        fitting = [
            n for n in range(1, max_lod + 1) if len(levels) % block_size ** (n - 1) == 0 and len(levels) + block_size ** (n - 1) <= blocks
        ]
        level = rng.choice([0, *fitting])
        levels += [level] * (block_size ** (level - 1) if level else 1)
    return levels


def entries(levels: list[int], length: int, geometry: Geometry) -> list[tuple[int, int]]:
    """(level, start) of each entry of the layout that `levels` describes, one by one from the definition."""
    K, S = geometry.block_size, geometry.slots
    out, token = [], 0
    while token < length:
        level = levels[token // K] if token // K < len(levels) else 0
        span = K**level
        out += [(level, token + slot * span // S) for slot in range(S)] if level else [(0, token)]
        token += span
    return out


def as_layout(rows: list[list[tuple[int, int]]]) -> Layout:
    """The layout of these (level, start)."""
    pairs = torch.tensor(rows, dtype=torch.int64).view(len(rows), -1, 2)  # (B, W, 2)
    return Layout(pairs[..., 0].contiguous(), pairs[..., 1].contiguous())


def assert_training_moves_everything(memory: MCController, prefix: str, steps: int = 3) -> None:
    """Every parameter under `prefix` gets a gradient and moves, and is in the checkpoint.

    Layers that start at zero hold back the gradient of what is behind them, so it takes as many steps as there are of them in a
    row to reach all. Weight decay, which would move a parameter that learns nothing, is off.
    """
    mine = {name: p for name, p in memory.named_parameters() if name.startswith(prefix)}
    assert mine
    before = {name: p.detach().clone() for name, p in mine.items()}
    groups = memory.parameter_groups(OptimFlags(weight_decay=0.0), TrainPlan(SEQ_LEN, steps, 1.0, 1.0))
    check_coverage(memory, groups)
    optimizer, reached = MuonAdamW(groups), set()
    for step in range(steps):
        memory(*tiny_batch(4, seed=step), 0.5).total.backward()
        reached |= {name for name, p in mine.items() if p.grad.abs().sum() > 0}
        optimizer.reduce_gradients()
        optimizer.step()
    assert reached == mine.keys()
    assert not [name for name, p in mine.items() if torch.equal(p, before[name])]

    saved = memory.state_dict()
    assert mine.keys() <= saved.keys()
    other = MCController(memory.model, memory.config, SEQ_LEN)
    randomise(other, 99)
    other.load_state_dict({name: value.clone() for name, value in saved.items()})
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, saved[name]), name
