"""Compression plan of training rows: what stays raw, what LensNet learns at, and the width of variants over the run.

Shapes: `T` tokens, `K` block size, `H` horizon, `R` recent tokens, `F` blocks that may be compressed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mc.config import MCConfig
from mc.layout.compression import Compression, compression
from mc.nets.gist_bank import BankShape

LENGTHS = 8  # different widths of variants in a run at most


@dataclass(frozen=True)
class RowPlan:
    """Compression plan of rows of `length` tokens: what stays raw, and the width of variants over the run."""

    config: MCConfig
    length: int

    def __post_init__(self) -> None:
        T, K = self.length, self.config.block_size
        if self.config.mc_train_wc_length > T:
            raise ValueError(f"mc_train_wc_length is {self.config.mc_train_wc_length}; a row has only {T} tokens")
        if self.blocks < 1:
            raise ValueError(
                f"allocator_recent_tokens {self.recent} and mc_horizon {self.horizon} "
                f"leave no block of block_size {K} to compress in rows of {T} tokens"
            )
        if self.config.mc_lens_decisions > self.blocks:
            raise ValueError(
                f"mc_lens_decisions is {self.config.mc_lens_decisions}; rows of {T} tokens have only {self.blocks} blocks to compress"
            )
        if self.final_width <= self.tail:
            raise ValueError(
                f"mc_train_wc_length {self.final_width} is not more than the {self.tail} tokens that stay raw "
                f"(allocator_recent_tokens {self.recent} and mc_horizon {self.horizon}); give more, or fewer raw tokens"
            )
        if 0 < self.config.session.allocator.allocator_soft_max_length <= self.recent:
            raise ValueError(
                f"allocator_soft_max_length is {self.config.session.allocator.allocator_soft_max_length}; "
                f"it must be more than the {self.recent} tokens that allocator_recent_tokens keeps raw"
            )

    @property
    def recent(self) -> int:
        """Tokens before the decision point that stay raw: R."""
        K = self.config.block_size
        return self.config.allocator_recent_tokens or -(-self.length // 16 // K) * K

    @property
    def horizon(self) -> int:
        """Tokens after the decision point: H."""
        return self.config.mc_horizon or max(1, self.length // 16)

    @property
    def blocks(self) -> int:
        """Blocks that may be compressed: F."""
        return (self.length - self.recent - self.horizon) // self.config.block_size

    def decision(self, blocks: int) -> int:
        """Tokens before the decision point up to which the first `blocks` blocks may be compressed."""
        return self.length - self.horizon - (self.blocks - blocks) * self.config.block_size

    def collapsed_width(self, blocks: int) -> int:
        """Entries before that decision point if all of these blocks are gists of level 1."""
        return blocks * self.config.gist.gist_slots + self.decision(blocks) - blocks * self.config.block_size

    @property
    def far_blocks(self) -> list[int]:
        """Blocks that may be compressed before each decision point at which LensNet learns, the row's own first.

        The decision points are spread over the last three quarters of the blocks.
        """
        points = self.config.mc_lens_decisions
        step = max(1, 3 * self.blocks // (4 * points))
        return [self.blocks - i * step for i in range(points)]

    @property
    def decisions(self) -> list[int]:
        """The decision points of `far_blocks`, in tokens."""
        return [self.decision(blocks) for blocks in self.far_blocks]

    @property
    def tail(self) -> int:
        """Tokens after these blocks, all raw."""
        return self.length - self.blocks * self.config.block_size

    @property
    def final_width(self) -> int:
        """Requested entries of a variant at the end of training."""
        return self.config.mc_train_wc_length or self.length // 5

    @property
    def max_lod(self) -> int:
        """Highest level with a complete node among the blocks."""
        K, level = self.config.block_size, 1
        while level < self.config.mc_max_lod and self.blocks >= K**level:
            level += 1
        return level

    @property
    def stages(self) -> list[float]:
        """The progress at which each stage of the annealing begins."""
        return [stage / LENGTHS for stage in range(LENGTHS)]

    @property
    def shape(self) -> BankShape:
        """Shape of a row's gist bank."""
        return BankShape(self.length, self.blocks * self.config.block_size, self.config.geometry, self.max_lod)

    def width(self, progress: float) -> int:
        """Target width of variants when `progress` (0 … 1) of the run is done: from 0.8 T down in equal steps."""
        stage = min(int(progress * LENGTHS), LENGTHS - 1)
        begin = max(0.8 * self.length, self.final_width)
        return round(begin + (self.final_width - begin) * stage / (LENGTHS - 1))

    def multiplier(self, progress: float) -> float:
        """Entries of a row and its variants, all of which are forwarded, per token of the row when `progress` of the run is done."""
        variant = self.compression(self.width(progress))
        read = self.tail if self.config.gist.layered else variant.width
        share = 1 / self.config.mc_rows_every if self.config.apart else 1.0
        return 1 + share * self.variants(variant) * read / self.length

    def variants(self, compression: Compression) -> int:
        """Variants of `compression` per row, at least a pair if LensNet learns from pairs and there are two."""
        least = 2 if self.config.lens_loss.mc_lens_loss_weight and not self.config.gist.layered else 1
        return min(max(self.config.mc_num_random_variants, least), compression.possibilities)

    def compression(self, width: int, higher: tuple[int, ...] = ()) -> Compression:
        """The reachable compression whose width is nearest, with `higher` nodes of the levels from 2 up."""
        return compression(width, self.blocks, self.tail, self.config.geometry, higher)
