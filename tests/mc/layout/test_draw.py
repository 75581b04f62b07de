"""Layouts as text: every block where it belongs, widths that are true, lines that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mc.config import MCConfig
from mc.layout.draw import draw_history, draw_layouts
from mc.layout.layout import Geometry, widths
from mc.layout.tiling import Tiling
from mc.nets.gistnet import GistConfig
from mc.row_plan import RowPlan


def plan_of(length: int = 1024, slots: int = 1, **config) -> RowPlan:
    settings = {"block_size": 8, "mc_horizon": 16, "allocator_recent_tokens": 8, "mc_train_wc_length": length // 2}
    return RowPlan(MCConfig(**(settings | config), gist=GistConfig(gist_slots=slots)), length)


def test_a_character_for_each_block() -> None:
    plan = plan_of(128)  # 13 blocks that may be compressed, 8 raw tokens, and the horizon of 16
    levels = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0], [2] * 8 + [1, 0, 1, 0, 1], [0] * 13])
    assert draw_layouts(levels, plan.config.geometry, plan.length, plan.horizon, ["one", "other", "raw"]).split("\n") == [
        "█ raw  ▓ LOD1, 8 tokens  ▒ LOD2, 64 tokens  │ decision point",
        "1 character = 8 tokens; at the end the entries for 128 tokens",
        "one   ▓█▓▓████▓▓▓▓██│██  79",
        "other ▒▒▒▒▒▒▒▒▓█▓█▓█│██  44",
        "raw   ██████████████│██ 128",
    ]


@pytest.mark.parametrize("length, slots, columns", [(1024, 1, 100), (4096, 2, 100), (16384, 1, 60), (200, 1, 100), (1000, 4, 40)])
def test_every_line_fits_and_says_how_wide_the_layout_is(length: int, slots: int, columns: int) -> None:
    plan = plan_of(length, slots)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(2, (5, plan.blocks), generator=generator)
    names = [f"layout {v}" for v in range(5)]
    lines = draw_layouts(levels, plan.config.geometry, plan.length, plan.horizon, names, columns).split("\n")[2:]
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= columns
    for v, (line, width) in enumerate(zip(lines, widths(levels, length, plan.config.geometry).tolist(), strict=True)):
        assert line.startswith(f"layout {v} ") and line.rstrip().endswith(f" {width:,}")
        assert set(line.removeprefix(f"layout {v} ").split()[0]) <= set("█▓│")


def test_of_many_blocks_a_character_shows_what_most_are() -> None:
    plan = plan_of(16384)
    levels = torch.zeros(1, plan.blocks, dtype=torch.int64)
    levels[0, : plan.blocks // 2] = 1
    levels[0, : plan.blocks // 2 : 50] = 0  # here and there one that does not count
    bar = draw_layouts(levels, plan.config.geometry, plan.length, plan.horizon, ["half"]).split("\n")[2].split()[1].split("│")[0]
    half = bar.index("█")
    assert set(bar[:half]) == {"▓"} and set(bar[half:]) == {"█"} and abs(half - len(bar) / 2) <= 1


def tiling_of(*runs: tuple[int, int], block_size: int = 8) -> tuple[Tiling, int]:
    """Entries of each level, one behind the other, and how many tokens they are; one slot."""
    lod = np.concatenate([np.full(count, level) for level, count in runs])
    ends = (block_size**lod).cumsum()
    return Tiling(lod, ends - block_size**lod), int(ends[-1])


def test_a_history_is_drawn_block_by_block_while_that_fits() -> None:
    tiling, length = tiling_of((2, 1), (1, 3), (0, 8), (1, 4), (0, 13))
    assert draw_history(tiling, length, Geometry(8)).split("\n") == [
        "█ raw  ▓ LOD1, 8 tokens  ▒ LOD2, 64 tokens  1 character = 8 tokens, a block",
        "0 ▒▒▒▒▒▒▒▒▓▓▓█▓▓▓▓██",
    ]
    assert draw_history(tiling, length, Geometry(8), columns=8).split("\n")[1:] == [
        "  0 ▒▒▒▒▒▒▒▒",
        " 64 ▓▓▓█▓▓▓▓",
        "128 ██",
    ]


def test_of_a_long_history_what_is_open_is_seen() -> None:
    """Two million tokens with one raw block among them: a character is many blocks, and still shows it."""
    K = 32
    tiling, length = tiling_of((4, 1), (3, 5), (2, 31), (1, 31), (0, K), (2, 10), (3, 29), (0, 70), block_size=K)
    lines = draw_history(tiling, length, Geometry(K), columns=50, lines=4).split("\n")
    assert length > 2_000_000 and len(lines) <= 5 and "LOD4, 1,048,576 tokens" in lines[0] and "1 character = 16,384 tokens" in lines[0]
    bar = "".join(line.split()[1] for line in lines[1:])
    opened = (K**4 + 6 * K**3 - K) // 16_384
    assert len(bar) == -(-length // 16_384) and bar[opened] == "█" and bar.strip("·").count("█") == 2 and bar[-1] == "█"
    assert bar[:64] == "·" * 64 and bar[64:74] == "░" * 10
    assert [line.split()[0] for line in lines[1:]] == [f"{i * 50 * 16_384:,}" for i in range(len(lines) - 1)]


def test_a_history_of_slots_and_of_nothing() -> None:
    slots = Tiling(np.array([1, 1, 1, 1, 0, 0]), np.array([0, 4, 8, 12, 16, 17]))
    assert draw_history(slots, 18, Geometry(8, 2)).endswith("0 ▓▓█")
    assert draw_history(Tiling(np.zeros(0, np.int64), np.zeros(0, np.int64)), 0, Geometry(8)) == "nothing yet"
