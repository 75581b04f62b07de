"""Conditions are what they say, losses are those of the model, replies are scored right, costs are counted right."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mc.config import AllocatorConfig, SessionConfig
from mc.eval.cost_eval import measure_cost
from mc.eval.report import charts, cost_criteria, recall_criteria
from mc.eval.session_baselines import SESSION_CONDITIONS, Reader, SessionEval, Window, forced, joined
from mc.eval.suite_eval import Examiner, Prediction, Unfit, suite_rows
from mc.eval.text_eval import TextPoint, measure_text, text_rows
from mc.session.budget import session_budget
from mc.session.session import MCSession
from mc.train.controller import MCController
from nanochat.infer.engine import Engine
from nanochat.infer.memory_kv_cache import MemoryKVCache
from nanochat.infer.sampling import Sampling
from nanochat.report.figures import chart_png, check_chart
from nanochat.tasks.long.suite import Suite
from tests.helpers.tiny_memory import tiny_memory
from tests.helpers.tiny_model import full_logits, tiny_tokenizer

NARROW = SessionConfig(mc_session_lod=2, mc_infer_refocus_interval=8)
EAGER = AllocatorConfig(allocator_expand_threshold=0.0, allocator_collapse_threshold=0.0, allocator_iterations=2)
WIDE = SessionConfig(mc_session_lod=2, mc_infer_refocus_interval=8, allocator=AllocatorConfig(allocator_soft_max_length=400))


def memory(**options) -> MCController:
    return tiny_memory(**options).requires_grad_(False).eval()


def evaluation(controller: MCController, config: SessionConfig = NARROW, **options) -> SessionEval:
    settings = {"conditions": SESSION_CONDITIONS, "examples": 2, "batch": 7, "full_limit": 1000}
    return SessionEval(controller, config, **(settings | options))


def random_tokens(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (n,), generator=torch.Generator().manual_seed(seed))


def plain_losses(controller: MCController, tokens: torch.Tensor, begin: int) -> torch.Tensor:
    """Of the tokens from `begin` on, by one forward of the whole row."""
    return F.cross_entropy(full_logits(controller.model, tokens.tolist())[begin - 1 : -1], tokens[begin:], reduction="none")


def opened(
    controller: MCController, config: SessionConfig, condition: str, tokens: torch.Tensor, seed: int = 0, needed=()
) -> MemoryKVCache:
    reader = Reader(evaluation(controller, config), seed)
    for piece in tokens.split(150):
        reader.read(piece)
    return reader.open(condition, needed).cache


@pytest.mark.parametrize("gist", [{}, {"gistnet_type": "context"}])
def test_with_room_for_everything_all_conditions_have_the_loss_of_the_full_context(gist: dict) -> None:
    controller, documents = memory(gist=gist), [random_tokens(200, 1), random_tokens(150, 2)]
    points = measure_text(evaluation(controller, WIDE), documents, [60, 120], 20)
    assert [(point.document, point.length) for point in points] == [(0, 60), (0, 120), (1, 60), (1, 120)]
    for point in points:
        expected = plain_losses(controller, documents[point.document][: point.length + 20], point.length)
        assert point.losses.keys() == set(SESSION_CONDITIONS)
        for losses in point.losses.values():
            torch.testing.assert_close(losses, expected, rtol=0, atol=5e-5)


def test_a_window_is_the_last_tokens_alone_and_slides_as_a_session_refocuses() -> None:
    controller, tokens = memory(), random_tokens(300)
    budget = session_budget(controller, NARROW)
    assert 20 <= budget.target < 150
    (point,) = measure_text(evaluation(controller, conditions=["window"]), [tokens], [200], 20)
    losses = []
    for begin in (0, budget.interval, 2 * budget.interval):  # what is read anew after every 8 tokens that were predicted
        upto = min(begin + budget.interval, 20)
        row = tokens[200 + begin - budget.target : 200 + upto]
        losses.append(plain_losses(controller, row, budget.target)[: upto - begin])
    torch.testing.assert_close(point.losses["window"], torch.cat(losses), rtol=0, atol=5e-5)
    window = Window(controller.model, budget)
    window.extend(tokens)
    assert (window.position, window.newest, window.entries(0)[0].x.shape[1]) == (300, int(tokens[-1]), budget.target)


@pytest.mark.parametrize("gist", [{}, {"gistnet_type": "context"}, {"gist_slots": 2}])
def test_every_condition_keeps_the_budget_and_gists_never_expand(gist: dict) -> None:
    controller, tokens = memory(gist=gist), random_tokens(700)
    config = dataclasses.replace(NARROW, allocator=EAGER)
    budget = session_budget(controller, config)
    contexts = {}
    for condition in SESSION_CONDITIONS[2:]:
        cache = opened(controller, config, condition, tokens, seed=3, needed=[(17, 30)])
        (session,) = cache.memories
        assert isinstance(session, MCSession) and session.length == 700 and torch.equal(session.tree.tokens(0, 700), tokens)
        for token in random_tokens(40, 5):
            cache.append(token.view(1, 1))
            assert max(len(session.context), cache.lengths[0]) <= budget.most
        contexts[condition] = session.context.tiling
        expanded = session.figures.edits
        assert (expanded == 0) == (condition == "gists"), condition
    coarse = contexts["gists"]
    assert (np.diff(coarse.lod) <= 0).all() and coarse.lod.max() == 2  # the newer, the finer
    assert any(len(coarse.lod) != len(c.lod) or (coarse.lod != c.lod).any() for c in (contexts["random"], contexts["lens"]))
    assert not np.array_equal(contexts["random"].lod, contexts["lens"].lod)


def test_the_oracle_has_what_is_needed_in_detail() -> None:
    controller, tokens = memory(), random_tokens(500)
    config = dataclasses.replace(NARROW, allocator=AllocatorConfig(allocator_iterations=3))

    def raw(condition: str) -> bool:
        tiling = opened(controller, config, condition, tokens, needed=[(100, 109)]).memories[0].context.tiling
        return set(range(96, 112)) <= set(tiling.start[tiling.lod == 0].tolist())

    assert raw("oracle") and not raw("gists")


def test_seeds_make_random_focus() -> None:
    controller, tokens = memory(), random_tokens(600)
    config = dataclasses.replace(NARROW, allocator=EAGER)
    tilings = [opened(controller, config, "random", tokens, seed=seed).memories[0].context.tiling for seed in (1, 1, 2)]
    assert np.array_equal(tilings[0].start, tilings[1].start) and not np.array_equal(tilings[0].start, tilings[2].start)


def test_conditions_do_not_disturb_each_other_and_too_long_is_not_full() -> None:
    controller, tokens = memory(), random_tokens(400)
    settings = evaluation(controller, full_limit=300)
    reader = Reader(settings)
    reader.read(tokens[:290])
    assert [condition for condition, _ in reader.open_all([(0, 1)])] == list(SESSION_CONDITIONS)
    assert [condition for condition, _ in reader.open_all(None, longest=301)] == ["window", "random", "lens", "gists"]
    first = reader.open("lens")
    list(forced(joined(settings, [first]), random_tokens(30)[None]))
    torch.testing.assert_close(reader.open("lens").hidden, first.hidden)
    reader.read(tokens[290:])
    assert reader.length == 400 and "full" not in dict(reader.open_all([(0, 1)]))
    torch.testing.assert_close(reader.open("lens").hidden, opened(controller, NARROW, "lens", tokens).hidden)


def test_documents_are_taken_where_they_are_long_enough() -> None:
    controller = memory()
    documents = [random_tokens(n, n) for n in (250, 130, 250, 100)]
    settings = evaluation(controller, conditions=["window", "lens", "full"], batch=100, full_limit=150)
    points = measure_text(settings, documents, [100, 200], 20)
    assert [(point.document, point.length) for point in points] == [(0, 100), (0, 200), (1, 100), (2, 200)]
    assert [set(point.losses) for point in points][1] == {"window", "lens"}
    rows = text_rows(points, [8, 20])
    row = next(row for row in rows if (row["tokens"], row["horizon"], row["condition"]) == (100, 8, "lens"))
    gains = torch.stack([p.losses["window"][:8].mean() - p.losses["lens"][:8].mean() for p in points if p.length == 100])
    assert row["gain"] == pytest.approx(float(gains.mean()), abs=1e-6) and row["documents"] == 2
    assert row["gain_error"] == pytest.approx(float(gains.std()) / 2**0.5, rel=1e-4)
    assert row["delta_nll"] is not None and row["recovery"] is not None
    assert all(row["recovery"] is None and row["delta_nll"] is None for row in rows if row["tokens"] == 200)
    one = text_rows([TextPoint(0, 100, {"window": torch.ones(9), "lens": torch.zeros(9)})], [9])
    assert one[1]["gain"] == 1 and one[1]["gain_error"] is None


def examiner(controller: MCController, tokenizer, config: SessionConfig = NARROW, **options) -> Examiner:
    how = {name: options.pop(name) for name in ("chat", "scoring") if name in options}
    settings = evaluation(controller, config, **({"examples": 3, "batch": 5, "full_limit": 2000} | options))
    return Examiner(settings, tokenizer, **({"chat": False, "easy": True} | how))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("scoring", ["generate", "likelihood"])
def test_a_memory_replies_as_the_engine_does_with_the_whole_prompt(chat: bool, scoring: str) -> None:
    tokenizer, wide = tiny_tokenizer(), dataclasses.replace(WIDE, allocator=AllocatorConfig(allocator_soft_max_length=900))
    controller = memory(model={"vocab_size": 300})
    suite = Suite("passkey", tokenizer.encode, easy=True)
    predictions = examiner(controller, tokenizer, wide, chat=chat, scoring=scoring).run("passkey", 500)
    assert len(predictions) == 3 * len(SESSION_CONDITIONS)
    special = tokenizer.special_tokens
    for number, example in enumerate(suite.examples(3, 500, 0)):
        prompt = [special["<|bos|>"], *tokenizer.encode(example.prompt)]
        if chat:
            asked = [special["<|bos|>"], special["<|user_start|>"], *tokenizer.encode(example.question), special["<|user_end|>"]]
            prompt = [*asked, special["<|assistant_start|>"], *tokenizer.encode(example.prefix.strip())]
        right = tokenizer.encode(f" {example.answers[0]}")
        if scoring == "generate":
            (completion,) = Engine(controller.model).generate([prompt], Sampling(temperature=0, max_tokens=suite.reply_tokens))
            reply = tokenizer.decode(completion.tokens)
        else:
            reply = tokenizer.decode(full_logits(controller.model, prompt + right)[len(prompt) - 1 : -1].argmax(-1).tolist())
        mine = [p for p in predictions if p.prompt == hashlib.blake2b(np.array(prompt).tobytes(), digest_size=8).hexdigest()]
        assert [p.condition for p in mine] == list(SESSION_CONDITIONS), number
        assert {(p.reply, p.answer, p.score) for p in mine} == {(reply, example.answers[0], float(example.answers[0] in reply))}


def test_a_right_reply_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model cannot know; so the head is made to say the answer of the one prompt."""
    tokenizer, controller = tiny_tokenizer(), memory(model={"vocab_size": 300})
    (example,) = Suite("passkey", tokenizer.encode, easy=True).examples(1, 500, 0)
    right = [*tokenizer.encode(f" {example.answers[0]}"), tokenizer.special_tokens["<|bos|>"]]
    one = {"conditions": ["gists", "lens"], "examples": 1}
    for scoring in ("generate", "likelihood"):
        asked = examiner(controller, tokenizer, scoring=scoring, **one)
        monkeypatch.setattr(asked, "_replies", lambda rows, count: [right[:-1], [1, 2, 3]])
        monkeypatch.setattr(asked, "_likeliest", lambda rows, replies: [list(replies[0]), [*replies[1][:-1], 7]])
        assert [p.score for p in asked.run("passkey", 500)] == [1.0, 0.0]


def test_recall_of_pairs_is_judged_at_every_query() -> None:
    controller = memory(model={"vocab_size": 300})
    predictions = examiner(controller, tiny_tokenizer(), examples=2).run("mqar", 201)
    assert len(predictions) == 2 * 8 * len(SESSION_CONDITIONS) and {p.length for p in predictions} == {200}
    assert {len(p.prompt) for p in predictions} == {16}
    full = [p for p in predictions if p.condition == "full"]
    again = examiner(controller, tiny_tokenizer(), examples=2).run("mqar", 201)
    assert again == predictions and len({p.prompt for p in full}) == 16
    assert len(examiner(controller, tiny_tokenizer(), examples=1, full_limit=100).run("mqar", 200)) == 8 * (len(SESSION_CONDITIONS) - 1)


@pytest.mark.parametrize(("suite", "length"), [("passkey", 40), ("niah_multikey_1", 60), ("mqar", 20), ("mqar", 400)])
def test_a_length_without_prompts_is_refused(suite: str, length: int) -> None:
    with pytest.raises(Unfit, match="length|vocab_size"):
        examiner(memory(model={"vocab_size": 300}), tiny_tokenizer()).run(suite, length)


def test_accuracies_have_intervals() -> None:
    made = [Prediction("passkey", 100, "lens", str(i), "1", "1", float(i < 8)) for i in range(10)]
    made += [Prediction("passkey", 100, "window", "x", "1", "", 0.0)]
    focus, window = suite_rows(made)
    assert (focus["examples"], focus["accuracy"]) == (10, 0.8) and focus["low"] == pytest.approx(0.4902, abs=1e-4)
    assert (window["examples"], window["accuracy"], window["low"]) == (1, 0.0, 0.0)
    assert [(t.figure, t.met) for t in recall_criteria([{**focus, "tokens": 160}, {**window, "tokens": 160}], 10)] == [
        ("passkey, 16 × W, gists + focus", False),
        ("passkey, 16 × W, window", True),
    ]


def test_costs_are_those_of_the_sessions(tmp_path: Path) -> None:
    controller, text = memory(), random_tokens(3000)
    config = dataclasses.replace(NARROW, mc_session_lod=3)
    rows = measure_cost(controller, config, lambda a, b: text[a:b], [200, 2000], ("ram", "disk"), tmp_path, decode=40)
    assert [(row["tree"], row["tokens"]) for row in rows] == [("ram", 200), ("disk", 200), ("ram", 2000), ("disk", 2000)]
    K, D = controller.config.block_size, controller.model.config.width
    for row in rows:
        for name in ("token_ms", "mean_ms", "plain_ms", "score_ms", "plan_ms", "assemble_ms", "forward_ms", "gist_ms", "ingest"):
            assert row[name] > 0, name
        parts = row["score_ms"] + row["plan_ms"] + row["assemble_ms"]
        assert row["refocus_share"] == pytest.approx(parts / (config.mc_infer_refocus_interval * row["token_ms"]))
        least = row["tokens"] * 2 + sum(row["tokens"] // K**level for level in (1, 2, 3)) * D * 4
        assert (row["disk_bytes"] is None) == (row["tree"] == "ram")
        if row["tree"] == "disk":
            assert row["disk_ratio"] == pytest.approx(row["disk_bytes"] / least) and row["disk_ratio"] > 1


def test_targets_are_met_or_missed_by_their_limits() -> None:
    row = {
        "tree": "disk",
        "tokens": 4096,
        "token_ms": 1.0,
        "peak_mib": 100.0,
        "disk_ratio": 1.5,
        "ingest_ratio": 0.9,
        "refocus_share": 0.04,
    }
    good = {**row, "tokens": 1 << 20, "token_ms": 1.14, "peak_mib": 119.0, "disk_ratio": 1.01}
    bad = {**good, "token_ms": 1.2, "peak_mib": 130.0, "disk_ratio": 1.03, "ingest_ratio": 0.7, "refocus_share": 0.06}
    assert [t.met for t in cost_criteria([row, good])] == [True] * 5
    assert [t.met for t in cost_criteria([row, bad])] == [False] * 5
    assert [t.value for t in cost_criteria([row, good])][:2] == pytest.approx([1.14, 1.19])
    assert "missed" in str(cost_criteria([row, bad])[0]) and "met" in str(cost_criteria([row, good])[0])


def test_what_was_measured_becomes_charts() -> None:
    assert charts([], [], []) == []
    text = [
        {"tokens": n, "horizon": 8, "condition": c, "gain": 0.1, "gain_error": 0.01, "delta_nll": 0.2, "delta_nll_error": None}
        for n in (100, 400)
        for c in ("full", "window", "lens")
    ]
    suites = [{"suite": "passkey", "tokens": 100, "condition": "lens", "accuracy": 0.5, "low": 0.2, "high": 0.8}]
    cost = [{"tree": "ram", "tokens": 10, "token_ms": 1, "plain_ms": 1, "refocus_share": 0.1, "ingest": 5, "disk_bytes": None}]
    made = charts(text, suites, cost)
    assert [chart["name"] for chart in made] == ["text", "suites", "cost"]
    gain, behind = made[0]["panels"]
    assert [curve["label"] for curve in gain["curves"]] == ["full", "lens"]
    assert gain["curves"][0]["points"][1] == pytest.approx([400, 0.1, 0.1 - 0.0196, 0.1 + 0.0196], abs=1e-4)
    assert [curve["label"] for curve in behind["curves"]] == ["window", "lens"]
    assert made[1]["panels"][0]["curves"] == [{"label": "lens", "points": [[100, 0.5, 0.2, 0.8]]}]
    for chart in made:
        check_chart(chart)
        assert chart_png(chart).startswith(b"\x89PNG")
