"""Rolling stage of `bench.mc_text`: what a memory that refocuses as it reads recovers, its controls, and a rival without a network.

Losses of each condition are kept in a file, so that a call continues the one before. Shapes: `N` rows, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.mc_text_setting import Bench, McText, rows_within_documents
from bench.suffix_cache import Copies, copies, fit_weights, mixed_nll
from mc.eval.paired_stats import Estimate, compare_rows
from mc.eval.rolling import Choice, Rolling, RollingRows, plain_losses
from mc.memory_model import MemoryModel
from nanochat.common import ensure_dir, read_json, write_json
from nanochat.data.sources import open_source
from nanochat.data.token_cache import open_tokens
from nanochat.data.tokenizer import Tokenizer

INTERVALS = (32, 8)
NARROW_INTERVALS = (48, 32, 8)  # at half of the budget, which is compared with a window at equal cost
ROWS = 16  # read at once
CONTROLS: tuple[Choice, ...] = ("lens", "attention", "random", "recency", "gists", "blocks", "shuffled", "oracle")
NARROW_CHOICES: tuple[Choice, ...] = ("lens", "random")
OWN_ROWS = 64  # a refocus before every token takes as long as eight others
FITTED_ROWS = 64  # training rows that the weights of the suffix-match cache are fitted on

Losses = dict[str, Tensor]  # fp32 [N], the mean over the second half of each row, by condition


@dataclass(frozen=True, eq=False)
class Measured:
    """Rows to measure on, and training rows that the cache is fitted on."""

    bench: Bench
    memory: MemoryModel
    tag: str
    rows: Tensor  # int64 [N,T+1]
    fitted: Tensor  # int64 [·,T+1]
    weights: dict[int, Tensor] = field(default_factory=dict)  # of the cache, by window

    def losses(self, name: str, measure: Callable[[Tensor], Tensor], rows: Tensor | None = None) -> Tensor | None:
        """Mean loss of each row's second half, fp32 [N], by `measure` [b,T+1] → [b,·]; None if the time ran out."""
        rows = self.rows if rows is None else rows
        file = ensure_dir(self.bench.home / "results") / f"{self.tag}.rolling.{name}.N{len(rows)}.json"
        if not file.exists():
            parts = []
            for batch in rows.split(ROWS):
                if self.bench.late():
                    return None
                parts.append(measure(batch)[:, -(rows.shape[1] // 2) :].mean(1))
            write_json(file, torch.cat(parts).tolist())
        return torch.tensor(read_json(file))

    def plain(self, window: int = 0) -> Tensor | None:
        """Losses of the plain model with everything, or with a window."""
        model = self.memory.model
        return self.losses(f"W{window}" if window else "full", lambda rows: plain_losses(model, rows[:, :-1], rows[:, 1:], window)[0])

    def read(self, setting: Rolling, choice: Choice, cached: bool = False) -> Tensor | None:
        """Losses of the memory under one condition, by itself or mixed with the suffix-match cache."""

        def measure(rows: Tensor) -> Tensor:
            tokens, targets = rows[:, :-1], rows[:, 1:]
            _, heads = plain_losses(self.memory.model, tokens, targets)
            nll = RollingRows(self.memory, setting, choice, tokens, heads).losses(targets)
            return self._mixed(rows, nll, 0) if cached else nll

        name = f"W{setting.width}.R{setting.recent}.n{setting.interval}.{choice}" + ".suffix" * cached
        return self.losses(name, measure, self.rows[:: self.every] if choice == "own" else None)

    @property
    def every(self) -> int:
        """One in so many rows is measured if the memory refocuses before every token."""
        return max(1, len(self.rows) // OWN_ROWS)

    def suffix(self, window: int = 0) -> Tensor | None:
        """Losses of the suffix-match cache over the whole history, mixed with the plain model with a window (0 = none)."""

        def measure(rows: Tensor) -> Tensor:
            return self._mixed(rows, plain_losses(self.memory.model, rows[:, :-1], rows[:, 1:], window)[0], window)

        return self.losses(f"{f'W{window}' if window else 'full'}.suffix", measure)

    def _mixed(self, rows: Tensor, nll: Tensor, window: int) -> Tensor:
        """Losses of predictions with losses `nll` [b,·], those of the last tokens of `rows`, mixed with the cache's."""
        cache = copies(rows[:, :-1], rows[:, 1:])
        return mixed_nll(nll, Copies(*(part[:, -nll.shape[1] :] for part in cache)), self._weights(window))

    def _weights(self, window: int) -> Tensor:
        """Weights of the cache that suit the plain model with a window best on training rows."""
        if window not in self.weights:
            self.weights[window] = self._fitted_weights(window)
        return self.weights[window]

    def _fitted_weights(self, window: int) -> Tensor:
        tokens, targets = self.fitted[:, :-1], self.fitted[:, 1:]
        half = slice(tokens.shape[1] // 2, None)
        nll = [plain_losses(self.memory.model, rows[:, :-1], rows[:, 1:], window)[0] for rows in self.fitted.split(ROWS)]
        return fit_weights(torch.cat(nll)[:, half], Copies(*(part[:, half] for part in copies(tokens, targets))))


def settings(config: McText) -> list[Rolling]:
    """What is measured: the budget, and half of it, each with its intervals, if there is room for a raw block beside the tokens of one."""
    widths = ((config.budget, INTERVALS), (config.budget // 2, NARROW_INTERVALS))
    return [
        Rolling(width, min(config.recent, width // 4), interval)
        for width, intervals in widths
        for interval in intervals
        if 2 * interval <= width
    ]


def rolling_stage(bench: Bench, memory: MemoryModel, tokenizer: Tokenizer, tag: str) -> dict[str, Any] | None:
    """Recovery of each condition at each interval, and the memory against a window of an eighth of the row; None if the time ran out."""
    config = bench.config
    rows, documents = bench.held_out(tokenizer)
    shards = open_tokens(open_source(str(bench.corpus)), tokenizer, "train")
    fitted, _ = rows_within_documents(shards, config.max_seq_len, FITTED_ROWS)
    measured = Measured(bench, memory, tag, rows, fitted)
    tables: list[dict[str, Any]] = []
    for setting in settings(config):
        width = setting.width
        references = {"full": measured.plain(), "window": measured.plain(width), "near": measured.plain(config.recent)}
        references |= {"window+suffix": measured.suffix(width), "full+suffix": measured.suffix()}
        losses = dict(references)
        for choice in CONTROLS if width == config.budget else NARROW_CHOICES:
            if any(part is None for part in losses.values()):
                return None
            losses[choice] = measured.read(setting, choice)
        losses["lens+suffix"] = measured.read(setting, "lens", cached=True)
        if any(part is None for part in losses.values()):
            return None
        tables.append(_table(setting, losses, documents))
        if setting.interval == min(INTERVALS) and width == config.budget:
            if (own := measured.read(setting, "own")) is None:
                return None
            few = {name: losses[name][:: measured.every] for name in ("full", "window", "lens")} | {"own": own}
            compared = compare_rows(few, documents[:: measured.every])
            tables[-1]["own"] = {name: compared.recovery(name).columns("recovery") for name in ("lens", "own")} | {"rows": len(own)}
        print_table(tables[-1])
    return {"rolling": tables, "figures": _figures(tables)}


def _table(setting: Rolling, losses: Losses, documents: Tensor) -> dict[str, Any]:
    compared = compare_rows(losses, documents)
    conditions = {
        name: {**compared.delta_nll(name).columns("delta_nll"), **compared.recovery(name).columns("recovery")}
        for name in losses
        if name != "full"
    }
    over_random = compared.difference("random", "lens")
    gain = compared.difference("window", "lens")
    against_suffix = compared.difference("window+suffix", "lens")
    together = compared.difference("window+suffix", "lens+suffix")
    table = {
        **{"width": setting.width, "recent": setting.recent, "interval": setting.interval, "rows": compared.rows},
        **{"nll_full": compared.mean("full").value, "conditions": conditions},
        **over_random.columns("random_minus_lens"),
        **gain.columns("window_minus_lens"),
        **against_suffix.columns("suffix_minus_lens"),
        **together.columns("suffix_minus_both"),
    }
    if "gists" in losses:
        share = compare_rows({"full": losses["full"], "window": losses["near"], "gists": losses["gists"]}, documents).recovery("gists")
        table |= share.columns("gists_only_share")
    return table


def _figures(tables: list[dict[str, Any]]) -> dict[str, float | None]:
    """The bench's figures, each with its error."""

    def columns(name: str, table: dict[str, Any], key: str) -> dict[str, float | None]:
        return {name: table[key], f"{name}_error": table[f"{key}_error"]}

    at = {(table["width"], table["interval"]): table for table in tables}
    wide, narrow = max(width for width, _ in at), min(width for width, _ in at)
    figures = {}
    for interval in INTERVALS:
        figures |= columns(f"rolling_recovery_{interval}", at[wide, interval]["conditions"]["lens"], "recovery")
    figures |= columns("rolling_random_8", at[wide, 8]["conditions"]["random"], "recovery")
    figures |= columns("gists_only_share", at[wide, 8], "gists_only_share")
    for interval in NARROW_INTERVALS:
        if interval != 8 and (narrow, interval) in at:
            figures |= columns(f"window_minus_memory_nats_{interval}", at[narrow, interval], "window_minus_lens")
    return figures | columns("window_minus_memory_nats", at[narrow, 8], "window_minus_lens")


def print_table(table: dict[str, Any]) -> None:
    """Prints the conditions of a setting."""

    def shown(figures: dict[str, Any], key: str) -> str:
        return str(Estimate(*(float("nan") if figures[name] is None else figures[name] for name in (key, f"{key}_error"))))

    about = f"{table['width']} entries, {table['recent']} recent tokens, a refocus every {table['interval']}, {table['rows']} rows"
    print(f"rolling: {about}, full context {table['nll_full']:.4f} nats")
    for name, figures in table["conditions"].items():
        print(f"    {name:<14} ΔNLL {shown(figures, 'delta_nll')}   recovery {shown(figures, 'recovery')}")
    if "own" in table:
        lens, own = (shown(table["own"][name], "recovery") for name in ("lens", "own"))
        print(f"    own queries, a refocus before every token, {table['own']['rows']} rows: recovery {own}; lens on these {lens}")
    for key in ("random_minus_lens", "window_minus_lens", "suffix_minus_lens", "suffix_minus_both", "gists_only_share"):
        if key in table:
            print(f"    {key.replace('_', ' ')} {shown(table, key)}", flush=True)
