"""Layouts as text: every block where it belongs, widths that are true, lines that fit."""

from __future__ import annotations

import pytest
import torch

from mc.ascii_layout import draw_layouts
from mc.config import MCConfig, RowPlan
from mc.gistnet import GistConfig
from mc.layout import widths


def plan_of(length: int = 1024, slots: int = 1, **config) -> RowPlan:
    settings = {"block_size": 8, "mc_horizon": 16, "allocator_recent_tokens": 8, "mc_train_wc_length": length // 2}
    return RowPlan(MCConfig(**(settings | config), gist=GistConfig(gist_slots=slots)), length)


def test_a_character_for_each_block() -> None:
    plan = plan_of(128)  # 13 blocks that may be compressed, 8 raw tokens, and the horizon of 16
    levels = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0], [2] * 8 + [1, 0, 1, 0, 1], [0] * 13])
    assert draw_layouts(levels, plan, ["one", "other", "raw"]).split("\n") == [
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
    lines = draw_layouts(levels, plan, columns=columns).split("\n")[2:]
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= columns
    for v, (line, width) in enumerate(zip(lines, widths(levels, length, plan.config.geometry).tolist(), strict=True)):
        assert line.startswith(f"layout {v} ") and line.rstrip().endswith(f" {width:,}")
        assert set(line.removeprefix(f"layout {v} ").split()[0]) <= set("█▓│")


def test_of_many_blocks_a_character_shows_what_most_are() -> None:
    plan = plan_of(16384)
    levels = torch.zeros(1, plan.blocks, dtype=torch.int64)
    levels[0, : plan.blocks // 2] = 1
    levels[0, : plan.blocks // 2 : 50] = 0  # here and there one that does not count
    bar = draw_layouts(levels, plan, ["half"]).split("\n")[2].split()[1].split("│")[0]
    half = bar.index("█")
    assert set(bar[:half]) == {"▓"} and set(bar[half:]) == {"█"} and abs(half - len(bar) / 2) <= 1


def test_what_does_not_fit_is_refused() -> None:
    plan = plan_of(128)
    with pytest.raises(ValueError, match="columns is 12"):
        draw_layouts(torch.zeros(1, 13, dtype=torch.int64), plan, columns=12)
    with pytest.raises(ValueError, match="2 names for 1 layouts"):
        draw_layouts(torch.zeros(1, 13, dtype=torch.int64), plan, ["a", "b"])
