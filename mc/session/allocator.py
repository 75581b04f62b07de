"""Focus Allocator: turns LensNet's scores into edits of a Working Context, within a budget of entries.

A *replacement* is the expansion of a gist node and the collapses of families (see `mc.layout.tiling`) that pay for it. Collapses
that a growing history forces are not replacements; `fit` does them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mc.config import AllocatorConfig
from mc.layout.layout import Geometry
from mc.layout.tiling import BEYOND, Edit, Editor, Tiling

MARGIN = 1.0  # that a node must score higher than what a `BestAllocator` collapses for it
COOLDOWN = 2  # refocuses after an edit during which it may not be undone


class _Choices(NamedTuple):
    """Candidates of a plan: nodes to expand, best first, and families to collapse, worst first; the arrays of each have one length."""

    entry: np.ndarray  # first entry of each node
    score: np.ndarray
    size: np.ndarray  # entries that the edit adds or frees
    worth: np.ndarray  # logarithm of the attention that its blocks are expected to get
    family: np.ndarray  # index of the family that holds the node, or −1
    families: np.ndarray  # first entry of each family
    family_score: np.ndarray
    family_size: np.ndarray
    family_worth: np.ndarray


class FocusAllocator:
    """Plans the edits of a Working Context whose last `recent` tokens stay raw, and remembers them during the cooldown.

    Raises `ValueError` if a tiling, scores or an edit are not legal; its results always are.
    """

    swaps = False  # True if plans pay for any expansion that scores higher, so that they need no free room

    def __init__(
        self, config: AllocatorConfig, geometry: Geometry, max_lod: int, recent: int, seed: int = 0, temperature: float = 0.1
    ) -> None:
        """`temperature` is that of LensNet's loss: a block's expected attention is proportional to exp(score / temperature)."""
        self.config, self.geometry, self.max_lod, self.recent, self.seed = config, geometry, max_lod, recent, seed
        self.temperature = temperature
        self.editor = Editor(geometry, max_lod)
        # In fp32 as scores are, so that a score equal to its threshold is not above it by rounding.
        self._expand_above = float(np.float32(config.allocator_expand_threshold))
        self._collapse_below = -float(np.float32(config.allocator_collapse_threshold))
        self._most_replacements = config.allocator_max_replacements
        self._legal: tuple[Tiling, int] | None = None  # tiling that is known to be legal, and its tokens
        self._refocuses = 0
        self._plans = 0
        self._edited = np.zeros((0, 3), dtype=np.int64)  # (level, start, refocus) of each recently edited node

    def fit(self, tiling: Tiling, length: int, budget: int, scores: np.ndarray | None = None) -> tuple[Tiling, np.ndarray]:
        """Collapses families until `tiling` of `length` tokens has at most `budget` entries; returns as `apply` does.

        Families of the lowest level are collapsed first, among them those with the lowest mean of `scores` (fp32 [W]), then the
        oldest; recently expanded ones only if nothing else is left. These collapses are not remembered, so they may be undone at
        once. Raises `ValueError` if no legal tiling is as narrow.
        """
        self._check(tiling, length, scores)
        least = coarsest_width(length, self.geometry, self.max_lod, self.recent)
        if budget < least:
            raise ValueError(
                f"a Working Context of {budget} entries (allocator_soft_max_length) cannot hold {length} tokens: "
                f"mc_max_lod {self.max_lod} and allocator_recent_tokens {self.recent} leave at least {least} entries"
            )
        scores = None if scores is None else scores.astype(np.float64)
        source = np.arange(len(tiling.lod))
        for spare_recent_edits in (True, False):
            for level in range(self.editor.top):
                over = len(tiling.lod) - budget
                if over <= 0:
                    self._legal = tiling, length
                    return tiling, source
                first = self.editor.families(tiling, self._limit(length))
                first = first[tiling.lod[first] == level]
                if spare_recent_edits:
                    first = first[~self._cooling(tiling)[1][first]]
                count = -(-over // int(self.editor.saving[level + 1]))
                means = None if scores is None else self._family_scores(scores, first, tiling.lod[first])
                chosen = np.arange(len(first))[:count] if means is None else np.sort(means.argsort(kind="stable")[:count])
                tiling, step = self.editor.collapsed(tiling, first[chosen])
                if scores is not None:
                    scores = scores[step]
                    scores[step < 0] = means[chosen].repeat(self.geometry.slots)
                source = np.where(step < 0, -1, source[step])
        assert len(tiling.lod) <= budget  # all that may be collapsed has been
        return tiling, source

    def plan(self, tiling: Tiling, length: int, budget: int, scores: np.ndarray) -> list[Edit]:
        """Edits of one iteration for `scores` fp32 [W] of `tiling` of `length` tokens; collapses precede the expansion they pay for.

        Expands the nodes that score highest above the threshold. Each is paid with free room and then with the families of the lowest
        mean score that are worth less than the node: a family of gists stands for many blocks, whose detail is not given up for
        that of one unless its score is that much higher. A node that cannot be paid is skipped. Then remaining room goes to the
        best nodes that fit, whatever their score. If scores are equal, the newest is expanded and the oldest collapsed. Edits
        within the cooldown are not undone.
        """
        self._check(tiling, length, scores)
        room = budget - len(tiling.lod)
        if room < 0:
            raise ValueError(f"budget: {len(tiling.lod)} entries are over the {budget} allowed; call fit first")
        choices = self._choices(tiling, length, scores.astype(np.float64))
        self._plans += 1
        random = np.random.default_rng((self.seed, self._plans)) if self.config.allocator_type == "stochastic_greedy" else None
        need, free = choices.size, np.ones(len(choices.size), dtype=bool)
        gain = np.append(choices.family_size, 0)  # the last one stands for no family, −1
        edits, replacements = [], 0
        for wanted, on_credit in ((choices.score > self._expand_above, True), (True, False)):
            while replacements < self._most_replacements:
                payable = room + (self._credit(choices, gain) if on_credit else 0)
                node = self._choose(np.flatnonzero(free & wanted & (need <= payable)), choices.score, random)
                if node is None:
                    break
                replacements += 1
                free[node] = False
                gain[choices.family[node]] = 0
                room -= int(need[node])
                while room < 0:
                    payers = np.flatnonzero((gain[:-1] > 0) & (choices.family_worth < choices.worth[node]))
                    family = self._choose(payers, -choices.family_score, random)
                    assert family is not None
                    room += int(gain[family])
                    gain[family] = 0
                    free &= choices.family != family
                    edits.append(_edit(False, tiling, choices.families[family]))
                edits.append(_edit(True, tiling, choices.entry[node]))
        return edits

    def apply(self, tiling: Tiling, edits: Sequence[Edit]) -> tuple[Tiling, np.ndarray]:
        """The tiling after `edits`, and for each of its entries the index in `tiling`, −1 if it is new.

        Remembers the edits as of this refocus. Raises `ValueError` if one of them is invalid, and changes nothing.
        """
        after = self.editor.apply(tiling, edits)
        new = np.array([(edit.level, edit.start, self._refocuses) for edit in edits], dtype=np.int64).reshape(-1, 3)
        self._edited = np.concatenate([self._edited, new])
        self._legal = self._legal_after(tiling, edits, after[0])
        return after

    def _legal_after(self, tiling: Tiling, edits: Sequence[Edit], after: Tiling) -> tuple[Tiling, int] | None:
        """`after` and its tokens if it is known to be legal: `tiling` was, and no edit made a gist of what must stay raw."""
        if self._legal is None or self._legal[0] is not tiling:
            return None
        limit = self._limit(self._legal[1])
        inside = all(edit.expand or edit.start + self.editor.span[edit.level] <= limit for edit in edits)
        return (after, self._legal[1]) if inside else None

    def refocused(self) -> None:
        """Ends a refocus, whose iterations are each a `fit`, a `plan` and an `apply`."""
        self._refocuses += 1
        self._edited = self._edited[self._edited[:, 2] >= self._refocuses - COOLDOWN]

    def state(self) -> dict[str, Any]:
        """State for a saved session, as JSON values: with the same configuration and seed, plans continue as if never stopped."""
        return {"refocuses": self._refocuses, "plans": self._plans, "edited": self._edited.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores `state()`. Raises `ValueError` if it is invalid, and changes nothing."""
        if not isinstance(state, dict) or state.keys() != {"refocuses", "plans", "edited"}:
            raise ValueError("invalid allocator state: expected refocuses, plans and edited")
        refocuses, plans, edited = state["refocuses"], state["plans"], state["edited"]
        if not (_is_count(refocuses) and _is_count(plans) and isinstance(edited, list)):
            raise ValueError("invalid allocator state: expected the counts refocuses and plans, and a list edited")
        for row in edited:
            if not (isinstance(row, list) and len(row) == 3 and all(map(_is_count, row)) and row[0] >= 1 and row[2] <= refocuses):
                raise ValueError(f"invalid allocator state: {row} is not [level, start, refocus]")
        self._refocuses, self._plans = refocuses, plans
        self._edited = np.array(edited, dtype=np.int64).reshape(-1, 3)

    def _limit(self, length: int) -> int:
        """The token before which entries may be gists."""
        return raw_from(length, self.geometry, self.recent)

    def _check(self, tiling: Tiling, length: int, scores: np.ndarray | None) -> None:
        if self._legal is None or not _continues(*self._legal, tiling, length):
            self.editor.check(tiling, length, self.recent)
        self._legal = tiling, length
        if scores is None:
            return
        if scores.shape != tiling.lod.shape or scores.dtype != np.float32:
            raise ValueError(f"expected scores float32 [{len(tiling.lod)}], one for each entry, got {scores.dtype} {scores.shape}")
        if not np.isfinite(scores).all():
            entry = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise ValueError(f"the score of entry {entry} is {scores[entry]}; it must be finite")

    def _cooling(self, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
        """bool [W] each: the entry begins a node, or a family, whose expansion, or collapse, would undo a recent edit."""
        lod, start = tiling
        nodes, families = np.zeros((2, len(lod)), dtype=bool)
        if len(self._edited) and len(lod):
            level, begin = self._edited[:, 0], self._edited[:, 1]
            entry = np.minimum(start.searchsorted(begin), len(lod) - 1)
            present = start[entry] == begin
            nodes[entry[present & (lod[entry] == level)]] = True
            families[entry[present & (lod[entry] == level - 1)]] = True
        return nodes, families

    def _choices(self, tiling: Tiling, length: int, scores: np.ndarray) -> _Choices:
        editor, (lod, start) = self.editor, tiling
        nodes, families = editor.nodes(tiling), editor.families(tiling, self._limit(length))
        cooling_nodes, cooling_families = self._cooling(tiling)
        nodes, families = nodes[~cooling_nodes[nodes]], families[~cooling_families[families]]
        slots = np.full_like(nodes, self.geometry.slots)
        node_score = _reduced(np.add, scores, nodes, slots) / slots
        family_score = self._family_scores(scores, families, lod[families])
        best = node_score.argsort(kind="stable")[::-1]
        worst = np.flatnonzero(family_score < self._collapse_below)
        worst = worst[family_score[worst].argsort(kind="stable")]
        nodes, families = nodes[best], families[worst]
        rank = np.full(len(lod), -1)
        rank[families] = np.arange(len(families))
        up = editor.up[lod[nodes]]
        parent = start.searchsorted(start[nodes] // up * up)  # first entry of the node's parent
        return _Choices(
            entry=nodes,
            score=node_score[best],
            size=editor.saving[lod[nodes]],
            worth=self._node_worth(lod[nodes], node_score[best]),
            family=np.where(lod[parent] == lod[nodes], rank[parent], -1),
            families=families,
            family_score=family_score[worst],
            family_size=editor.saving[lod[families] + 1],
            family_worth=self._worth(lod[families] + 1, family_score[worst]),
        )

    def _family_scores(self, scores: np.ndarray, first: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Score of the families of nodes, or tokens, of `level` that begin at each entry `first`."""
        entries = self.editor.family[level]
        return _reduced(np.add, scores, first, entries) / entries

    def _node_worth(self, level: np.ndarray, score: np.ndarray) -> np.ndarray:
        return self._worth(level, score)

    def _worth(self, level: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Logarithm of the attention that the blocks of nodes of `level` are expected to get, up to a constant."""
        return (level - 1) * math.log(self.geometry.block_size) + score / self.temperature

    def _credit(self, choices: _Choices, gain: np.ndarray) -> np.ndarray:
        """Entries that the families that may pay for each node would free, by what each family can still `gain`."""
        order = choices.family_worth.argsort(kind="stable")
        sums = np.append(0, gain[:-1][order].cumsum())
        own = np.append(choices.family_worth, np.inf)[choices.family] < choices.worth
        return sums[choices.family_worth[order].searchsorted(choices.worth)] - np.where(own, gain[choices.family], 0)

    def _choose(self, ranked: np.ndarray, scores: np.ndarray, random: np.random.Generator | None) -> int | None:
        """One of the choices `ranked`, best first: the first, or with `random` one of the top k by softmax of their scores."""
        if not len(ranked):
            return None
        if random is None:
            return int(ranked[0])
        ranked = ranked[: self.config.allocator_sample_top_k]
        above = scores[ranked] - scores[ranked[0]]  # at most 0
        with np.errstate(over="ignore"):  # −inf has the probability 0
            weights = np.exp(above / self.config.allocator_sample_temperature)
        return int(ranked[weights.cumsum().searchsorted(random.random() * weights.sum(), side="right")])


class BestAllocator(FocusAllocator):
    """Focus Allocator of sessions in which a swap is cheap: what scores highest is in detail, as much as the budget holds.

    Scores are logarithms of what points into a node. No threshold, cooldown or number of replacements holds; the detail of a family is
    given up for a node that more points into than into all of the family.
    """

    swaps = True

    def __init__(self, config: AllocatorConfig, geometry: Geometry, max_lod: int, recent: int) -> None:
        super().__init__(config, geometry, max_lod, recent, temperature=1.0)
        self._expand_above, self._collapse_below, self._most_replacements = -math.inf, math.inf, BEYOND

    def _cooling(self, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.zeros((2, len(tiling.lod)), dtype=bool))

    def _family_scores(self, scores: np.ndarray, first: np.ndarray, level: np.ndarray) -> np.ndarray:
        alike = np.where(level > 0, self.geometry.slots, self.geometry.block_size)  # entries of a node, or a raw block: they score alike
        return _reduced(np.logaddexp, scores, first, self.editor.family[level]) - np.log(alike)

    def _worth(self, level: np.ndarray, score: np.ndarray) -> np.ndarray:
        return score

    def _node_worth(self, level: np.ndarray, score: np.ndarray) -> np.ndarray:
        return score - MARGIN


def raw_from(length: int, geometry: Geometry, recent: int) -> int:
    """The first token that must be raw in a history of `length` tokens: the last `recent` ones are, and incomplete blocks."""
    K = geometry.block_size
    return max(0, length - recent) // K * K


def coarsest_width(length: int, geometry: Geometry, max_lod: int, recent: int) -> int:
    """Entries of the narrowest legal tiling of `length` tokens with the last `recent` raw and gists up to level `max_lod`."""
    gisted = raw_from(length, geometry, recent)
    width, left = length - gisted, gisted
    for level in range(max_lod, 0, -1):
        nodes, left = divmod(left, geometry.span(level))
        width += nodes * geometry.slots
    return width


def _continues(before: Tiling, tokens: int, tiling: Tiling, length: int) -> bool:
    """True if `tiling` of `length` tokens is `before`, of its first `tokens`, and raw from there on: then it is as legal."""
    W = len(before.lod)
    return (
        tiling is before
        and length == tokens
        or (
            len(tiling.lod) - W == length - tokens >= 0
            and tiling.lod.dtype == tiling.start.dtype == before.lod.dtype
            and np.array_equal(tiling.lod[:W], before.lod)
            and np.array_equal(tiling.start[:W], before.start)
            and not tiling.lod[W:].any()
            and np.array_equal(tiling.start[W:], np.arange(tokens, length))
        )
    )


def count_blocks(tiling: Tiling, geometry: Geometry) -> int:
    """Number of blocks of a Working Context: its gist nodes and its raw blocks, including the incomplete one."""
    lod, start = tiling
    gists = np.count_nonzero(lod) // geometry.slots
    return gists + int(np.count_nonzero((lod == 0) & (start % geometry.block_size == 0)))


def swap_rate(edits: Sequence[Edit], blocks_before: int, geometry: Geometry) -> float:
    """Share of `blocks_before` (`count_blocks`) that a refocus edited; a family of gists counts as K blocks, anything else as one."""
    edited = sum(geometry.block_size if edit.level > 1 and not edit.expand else 1 for edit in edits)
    return edited / blocks_before if edited else 0.0


def _reduced(combine: np.ufunc, scores: np.ndarray, first: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """The `entries` scores from each entry `first` on, combined; these ranges are in order and do not overlap."""
    if not len(first):
        return np.zeros(0)
    bounds = np.stack([first, first + entries], axis=1).ravel()
    return combine.reduceat(np.append(scores, 0.0), bounds)[::2]


def _edit(expand: bool, tiling: Tiling, entry: np.ndarray) -> Edit:
    """The edit of the node, or of the family, that begins with `entry`."""
    return Edit(expand, int(tiling.lod[entry]) + (not expand), int(tiling.start[entry]))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < BEYOND
