"""The Focus Allocator against a slow one written from the definition: legal, within the budget, paid, and the best there is."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.config import AllocatorConfig
from mc.layout.tiling import Edit, Tiling, extended
from mc.session.allocator import COOLDOWN, FocusAllocator, coarsest_width, raw_from
from tests.helpers.tiny_tilings import (
    Entry,
    assert_legal,
    assert_source,
    children,
    families,
    gists,
    histories,
    node,
    random_tiling,
    replaced,
    rows,
)


def random_scores(rng: random.Random, width: int) -> np.ndarray:
    """Stretches of like scores, so that families are of one mind; of few values, so that many are equal and sums are exact."""
    change, scores, base = rng.choice([0.02, 0.1, 0.5]), [], 0
    for _ in range(width):
        base = rng.randint(-15, 14) if rng.random() < change or not scores else base
        scores.append((base + rng.randint(0, 1)) / 16)
    return np.array(scores, dtype=np.float32)


class Slow:
    """One node after the other, from the definition."""

    def __init__(self, allocator: FocusAllocator, length: int, row: list[Entry], scores: list[float] | None) -> None:
        self.geometry, self.max_lod, self.config = allocator.geometry, allocator.max_lod, allocator.config
        self.limit = raw_from(length, allocator.geometry, allocator.recent)
        self.row = row
        self.score = dict(zip(row, [0.0] * len(row) if scores is None else scores, strict=True))

    def cost(self, level: int) -> int:
        """Entries that expanding a node of `level` adds."""
        return self.geometry.block_size * self.geometry.size(level - 1) - self.geometry.slots

    def worth(self, of: Entry, scores: dict[Entry, float]) -> float:
        """Of the blocks that a node stands for, to be compared."""
        return (of[0] - 1) * math.log(self.geometry.block_size) + scores[of] / 0.1

    def mean(self, members: list[Entry]) -> float:
        return sum(self.score[entry] for entry in members) / len(members)

    def groups(self) -> dict[Entry, float]:
        """The mean score of the children of each node that can be made."""
        found = families(self.row, self.geometry, self.max_lod, self.limit)
        return {parent: self.mean(children(*parent, self.geometry)) for parent in found}

    def plan(self, budget: int, cooling: set[Entry]) -> list[Edit]:
        room, edits = budget - len(self.row), []
        nodes = {n: self.mean(node(*n, self.geometry)) for n in gists(self.row, self.geometry) if n not in cooling}
        nodes = dict(sorted(nodes.items(), key=lambda item: (-item[1], -item[0][1])))
        payers = {g: m for g, m in self.groups().items() if g not in cooling and m < -self.config.allocator_collapse_threshold}
        payers = dict(sorted(payers.items(), key=lambda item: (item[1], item[0][1])))
        for on_credit in (True, False):
            for wanted in list(nodes):
                if len([e for e in edits if e.expand]) == self.config.allocator_max_replacements or wanted not in nodes:
                    continue
                if on_credit and nodes[wanted] <= self.config.allocator_expand_threshold:
                    continue
                missing, used = self.cost(wanted[0]) - room, []
                for payer in list(payers) if on_credit else []:
                    if (
                        missing > 0
                        and wanted not in children(*payer, self.geometry)
                        and self.worth(payer, payers) < self.worth(wanted, nodes)
                    ):
                        used.append(payer)
                        missing -= self.cost(payer[0])
                if missing > 0:
                    continue
                room = -missing
                edits += [Edit(False, *payer) for payer in used] + [Edit(True, *wanted)]
                del nodes[wanted]
                payers = {g: m for g, m in payers.items() if g not in used and wanted not in children(*g, self.geometry)}
                gone = {child for payer in used for child in children(*payer, self.geometry)}
                nodes = {n: m for n, m in nodes.items() if n not in gone}
        return edits

    def fit(self, budget: int, cooling: set[Entry]) -> list[Entry]:
        for spared in (cooling, set()):
            for level in range(1, self.max_lod + 1):
                while len(self.row) > budget:
                    able = {g: m for g, m in self.groups().items() if g not in spared and g[0] == level}
                    if not able:
                        break
                    parent = min(able, key=lambda g: (able[g], g[1]))
                    new = node(*parent, self.geometry)
                    self.score |= dict.fromkeys(new, able[parent])
                    self.row = replaced(self.row, children(*parent, self.geometry), new)
        return self.row


def edited_of_late(allocator: FocusAllocator) -> set[Entry]:
    return {(level, start) for level, start, _ in allocator.state()["edited"]}


@st.composite
def contexts(draw: st.DrawFn, allocator_type: str = "greedy") -> tuple[FocusAllocator, Tiling, int, random.Random]:
    """(allocator with a few edits to remember, tiling, its tokens, randomness)."""
    geometry, length, max_lod, recent, rng = draw(histories())
    config = AllocatorConfig(
        allocator_type=allocator_type,
        allocator_expand_threshold=draw(st.sampled_from([0.0, 0.125, 0.5])),
        allocator_collapse_threshold=draw(st.sampled_from([0.0, 0.125, 0.25])),
        allocator_max_replacements=draw(st.integers(1, 5)),
    )
    allocator = FocusAllocator(config, geometry, max_lod, recent, seed=draw(st.integers(0, 2**32)))
    tiling = random_tiling(rng, geometry, length, max_lod, recent)
    nodes = gists(rows(tiling), geometry)
    tiling, _ = allocator.apply(tiling, [Edit(True, *n) for n in rng.sample(nodes, min(len(nodes), rng.randint(0, 2)))])
    groups = families(rows(tiling), geometry, max_lod, raw_from(length, geometry, recent))
    groups = [g for g in groups if g not in edited_of_late(allocator)]
    tiling, _ = allocator.apply(tiling, [Edit(False, *g) for g in rng.sample(groups, min(len(groups), rng.randint(0, 1)))])
    return allocator, tiling, length, rng


@settings(max_examples=300, deadline=None)
@given(contexts())
def test_greedy_plans_are_those_of_the_definition_legal_and_paid(context) -> None:
    allocator, tiling, length, rng = context
    for _ in range(3):
        scores = random_scores(rng, len(tiling.lod))
        budget = len(tiling.lod) + rng.choice([0, 0, 1, rng.randint(0, 3 * allocator.geometry.block_size)])
        edits = allocator.plan(tiling, length, budget, scores)
        assert edits == Slow(allocator, length, rows(tiling), scores.tolist()).plan(budget, edited_of_late(allocator))
        after, source = allocator.apply(tiling, edits)
        assert_legal(after, allocator, length, budget)
        assert_source(tiling, after, source)
        tiling = after
        allocator.refocused()


@settings(max_examples=300, deadline=None)
@given(contexts(), st.booleans())
def test_a_history_is_fitted_as_the_definition_says(context, scored: bool) -> None:
    allocator, tiling, length, rng = context
    scores = random_scores(rng, len(tiling.lod)) if scored else None
    least = coarsest_width(length, allocator.geometry, allocator.max_lod, allocator.recent)
    budget = rng.choice([least, rng.randint(least, max(least, len(tiling.lod) + 1))])
    after, source = allocator.fit(tiling, length, budget, scores)
    slow = Slow(allocator, length, rows(tiling), None if scores is None else scores.tolist())
    assert rows(after) == slow.fit(budget, edited_of_late(allocator))
    assert_legal(after, allocator, length, budget)
    assert_source(tiling, after, source)
    if least:
        with pytest.raises(ValueError, match=rf"of {least - 1} entries \(allocator_soft_max_length\) cannot hold {length} tokens"):
            allocator.fit(tiling, length, least - 1, scores)


@settings(max_examples=150, deadline=None)
@given(contexts("stochastic_greedy"))
def test_drawn_plans_are_legal_paid_and_the_same_for_the_same_seed(context) -> None:
    allocator, tiling, length, rng = context
    cooling, limit = edited_of_late(allocator), raw_from(length, allocator.geometry, allocator.recent)
    twin = FocusAllocator(allocator.config, allocator.geometry, allocator.max_lod, allocator.recent, allocator.seed)
    twin.load_state(json.loads(json.dumps(allocator.state())))
    for _ in range(3):
        scores, row = random_scores(rng, len(tiling.lod)), rows(tiling)
        budget = len(row) + rng.randint(0, allocator.geometry.block_size)
        edits = allocator.plan(tiling, length, budget, scores)
        assert edits == twin.plan(tiling, length, budget, scores)
        assert len([e for e in edits if e.expand]) <= allocator.config.allocator_max_replacements
        assert {(e.level, e.start) for e in edits if e.expand} <= set(gists(row, allocator.geometry)) - cooling
        payers = {(e.level, e.start) for e in edits if not e.expand}
        assert payers <= set(families(row, allocator.geometry, allocator.max_lod, limit)) - cooling
        means = Slow(allocator, length, row, scores.tolist()).groups()
        assert all(means[payer] < -allocator.config.allocator_collapse_threshold for payer in payers)
        assert_legal(allocator.apply(tiling, edits)[0], allocator, length, budget)
        allocator.load_state(twin.state())  # as before these edits


@settings(max_examples=100, deadline=None)
@given(contexts(), st.sampled_from([{"allocator_sample_temperature": 1e-9}, {"allocator_sample_top_k": 1}]))
def test_draws_without_chance_are_greedy(context, certain: dict) -> None:
    greedy, tiling, length, rng = context
    config = AllocatorConfig(**(vars(greedy.config) | {"allocator_type": "stochastic_greedy", "allocator_sample_top_k": 4} | certain))
    drawn = FocusAllocator(config, greedy.geometry, greedy.max_lod, greedy.recent, greedy.seed)
    drawn.load_state(greedy.state())
    scores = np.array([rng.uniform(-1, 1) for _ in tiling.lod], dtype=np.float32)  # no two are equal
    budget = len(tiling.lod) + rng.randint(0, greedy.geometry.block_size)
    assert drawn.plan(tiling, length, budget, scores) == greedy.plan(tiling, length, budget, scores)


@settings(max_examples=60, deadline=None)
@given(histories(), st.sampled_from(["greedy", "stochastic_greedy"]))
def test_nothing_is_undone_within_the_cooldown_as_a_history_grows(history, allocator_type: str) -> None:
    geometry, length, max_lod, recent, rng = history
    allocator = FocusAllocator(AllocatorConfig(allocator_type=allocator_type), geometry, max_lod, recent)
    tiling, last = random_tiling(rng, geometry, length, max_lod, recent), {}
    for refocus in range(12):
        grown = length + rng.randint(0, geometry.block_size)
        tiling, length = extended(tiling, length, grown), grown
        budget = coarsest_width(length, geometry, max_lod, recent) + 4 * geometry.block_size
        tiling, _ = allocator.fit(tiling, length, budget, random_scores(rng, len(tiling.lod)))
        for _ in range(2):
            edits = allocator.plan(tiling, length, budget, random_scores(rng, len(tiling.lod)))
            for edit in edits:
                assert refocus - last.get((edit.level, edit.start), -99) > COOLDOWN
                last[edit.level, edit.start] = refocus
            tiling, _ = allocator.apply(tiling, edits)
            assert_legal(tiling, allocator, length, budget)
        allocator.refocused()
