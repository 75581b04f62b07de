"""The evaluation of chat models against models whose replies are known, and against one row at a time."""

from __future__ import annotations

import json
import math
import socket

import numpy as np
import pytest

from bench.tiny_chat import reciting_model, sum_with_a_tool, tiny_tokenizer
from bench.warm_start import WarmStart
from nanochat.data.chat_template import render_prompt
from nanochat.eval.chat_eval import (
    ChatEvalFlags,
    TaskResult,
    chat_core,
    choose_letters,
    choose_problems,
    evaluate_task,
    evaluate_tasks,
    wilson,
)
from nanochat.infer.engine import Engine
from nanochat.infer.reply import stop_tokens
from nanochat.infer.tools import Tools
from nanochat.tasks.grading import reply_text
from nanochat.tasks.registry import open_task
from tests.helpers.tiny import warm  # noqa: F401 (pytest finds fixtures by name)
from tests.helpers.tiny_model import full_logits, tiny_model
from tests.helpers.told import Told

TOKENIZER = tiny_tokenizer()
LETTERS = ["ABCD", "AB", "ABC", "ABCDE", "ABCD", "ABCDEFGHIJ", "CA"] * 3


@pytest.fixture(scope="module")
def model():
    """One whose choices go by the prompt."""
    return tiny_model(vocab_size=300, max_seq_len=64)


@pytest.fixture(scope="module")
def adder():
    """One that always says `Sum:`, asks the calculator for 6*7, and says `-done!`."""
    return reciting_model(TOKENIZER, sum_with_a_tool(TOKENIZER), 60.0, 64)


def likeliest(model, conversation: dict) -> str:
    """The likeliest letter of one problem, by a forward of its own."""
    logits = full_logits(model, render_prompt(TOKENIZER, conversation)[-64:])[-1]
    return max(conversation["letters"], key=lambda letter: logits[TOKENIZER.encode(letter)[0]])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_letters_are_chosen_as_one_by_one(model, batch_size: int) -> None:
    task = Told(["A"] * len(LETTERS), LETTERS)
    conversations = list(task)
    replies = choose_letters(model, TOKENIZER, task, conversations, ChatEvalFlags(batch_size=batch_size))
    assert [r.text for r in replies] == [likeliest(model, c) for c in conversations]
    assert len({r.text for r in replies}) > 1 and all(r.ended for r in replies)


@pytest.mark.parametrize("factor", [3, -3])
def test_no_other_token_is_chosen_however_likely(factor: int) -> None:
    """Token 0 is likelier than the letter A, or than all that A is likelier than."""
    model = tiny_model(vocab_size=300, max_seq_len=64)
    model.lm_head.weight[0] = factor * model.lm_head.weight[TOKENIZER.encode("A")[0]]
    task = Told(["A"] * len(LETTERS), LETTERS)
    replies = choose_letters(model, TOKENIZER, task, list(task), ChatEvalFlags())
    assert [r.text for r in replies] == [likeliest(model, c) for c in task]


def test_a_prompt_that_is_too_long_loses_its_beginning(model) -> None:
    task = Told(["A"], ["ABCD"])
    long = task[0]
    long["messages"][0]["content"] = "why " * 40 + "not?"
    assert len(render_prompt(TOKENIZER, long)) > 64
    (reply,) = choose_letters(model, TOKENIZER, task, [long], ChatEvalFlags())
    assert reply.text == likeliest(model, long)


def test_categorical_accuracy_and_chance(model) -> None:
    right = [likeliest(model, c) for c in Told(["A"] * len(LETTERS), LETTERS)]
    answers = [letter if i % 3 else next(x for x in LETTERS[i] if x != letter) for i, letter in enumerate(right)]
    result = evaluate_task(model, TOKENIZER, Told(answers, LETTERS), ChatEvalFlags(batch_size=5))
    assert (result.problems, result.accuracy, result.pass_at_k) == (21, pytest.approx(14 / 21), None)
    assert result.chance == pytest.approx(np.mean([1 / len(letters) for letters in LETTERS]))
    assert result.centered == pytest.approx((14 / 21 - result.chance) / (1 - result.chance))


def test_letters_of_several_tokens_are_refused(model) -> None:
    with pytest.raises(ValueError, match="invalid letter 'yes!' of a categorical task: it is 3 tokens"):
        evaluate_task(model, TOKENIZER, Told(["yes!"], [["yes!", "no"]]), ChatEvalFlags())


def test_replies_use_the_tool_and_are_graded_by_what_they_say(adder) -> None:
    answers = ["Sum:-done!", "no", "Sum:-done!", "Sum:42-done!", " Sum:-done! "]
    result = evaluate_task(adder, TOKENIZER, Told(answers), ChatEvalFlags(batch_size=2))
    assert result.accuracy == 3 / 5 and result.chance == 0
    assert result.sample == {
        "prompt": "0?",
        "text": "Sum:<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>-done!",
    }


def test_a_reply_that_runs_out_of_room_has_not_answered(adder) -> None:
    tokens = len(sum_with_a_tool(TOKENIZER)) - 2 + 4  # without <|assistant_start|> and _end, with the tool's output
    accuracy = [evaluate_task(adder, TOKENIZER, Told(["Sum:-done!"]), ChatEvalFlags(max_new_tokens=n)).accuracy for n in (tokens - 1, 40)]
    assert accuracy == [0, 1]
    task = Told(["Sum:-done!"])
    task.reply_tokens = 3
    assert evaluate_task(adder, TOKENIZER, task, ChatEvalFlags()).accuracy == 0


@pytest.mark.parametrize("batch_size", [1, 7])
def test_samples_are_those_of_the_engine_one_by_one(model, batch_size: int) -> None:
    """And the accuracy is the mean over samples, pass@k the share of problems that any of them solves."""
    flags = ChatEvalFlags(batch_size=batch_size, num_samples=3, temperature=2.0, top_k=0, max_new_tokens=12, seed=5)
    engine, stop = Engine(model, tools=Tools(TOKENIZER)), stop_tokens(TOKENIZER)
    conversations = list(Told([""] * 6))
    texts = []
    for conversation in conversations:
        done = engine.generate([render_prompt(TOKENIZER, conversation)], flags.sampling(1), stop, samples=3)
        texts.append([reply_text(TOKENIZER, c.said) if c.ended else None for c in done])
    assert any(None in some for some in texts)
    told = [next((text for text in some if text is not None), "-") for some in texts]
    result = evaluate_task(model, TOKENIZER, Told(told), flags)
    solved = [[text is not None and text.strip() == answer.strip() for text in some] for some, answer in zip(texts, told, strict=True)]
    assert result.accuracy == pytest.approx(np.mean(solved)) and result.pass_at_k == pytest.approx(np.mean([any(s) for s in solved]))
    assert 0 < result.accuracy < result.pass_at_k


def test_grades_below_one_are_not_solved(adder) -> None:
    class Generous(Told):
        def grade(self, conversation: dict, reply: str) -> float:
            return 0.99 if "9" in conversation["messages"][0]["content"] else 1.0

    assert evaluate_task(adder, TOKENIZER, Generous(["x"] * 10), ChatEvalFlags()).accuracy == 0.9


@pytest.mark.parametrize("spec", ["lists", "humaneval"])
def test_problems_are_chosen_from_all_over(spec: str) -> None:
    task = open_task(spec, "test", 0)
    assert list(choose_problems(task, -1)) == list(choose_problems(task, 10**6)) == list(range(len(task)))
    some = choose_problems(task, 20).tolist()
    assert some == sorted(set(some)) and len(some) == 20 and some[0] >= 0 and some[-1] < len(task)
    assert (some == list(range(20))) == task.endless
    assert task.endless or some[-1] > 100


def test_two_processes_share_the_problems(warm: WarmStart) -> None:  # noqa: F811
    """Also where one of them has none."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    workers = [warm.start("tests.helpers.chat_eval_worker", [], world | {"RANK": rank}) for rank in "01"]
    assert [worker.wait() for worker in workers] == [0, 0], workers[0].stderr + workers[1].stderr
    results = [json.loads(worker.stdout) for worker in workers]
    assert results[0] == results[1]
    assert [(r["problems"], r["accuracy"]) for r in results[0]] == [(5, 0.6), (1, 1.0)]


@pytest.mark.parametrize(("solved", "count", "low", "high"), [(0, 8, 0, 0.32441), (8, 10, 0.49016, 0.94333), (50, 100, 0.40383, 0.59617)])
def test_wilson_interval_of_known_cases(solved: int, count: int, low: float, high: float) -> None:
    assert wilson(solved / count, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("count", [1, 2, 17, 1319])
def test_wilson_bounds_are_where_the_score_test_just_rejects(count: int) -> None:
    for solved in {0, 1, count // 2, count}:
        share = solved / count
        low, high = wilson(share, count)
        assert 0 <= low <= share <= high <= 1
        for bound in (low, high):
            if bound not in (0, 1):
                assert abs(share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / count))
    with pytest.raises(ValueError):
        wilson(0.5, 0)


def test_chat_core_is_the_mean_above_chance() -> None:
    results = [TaskResult("a", "categorical", 4, 0.25, 0.25, None, 0, {}), TaskResult("b", "generative", 4, 0.5, 0.0, None, 0, {})]
    assert chat_core(results) == 0.25
    assert chat_core([TaskResult("a", "categorical", 4, 1.0, 0.25, None, 0, {})]) == 1


def test_what_is_said_and_tabled(adder) -> None:
    said: list[str] = []
    (result,) = evaluate_tasks(adder, TOKENIZER, [Told(["Sum:-done!"])], ChatEvalFlags(num_samples=2, temperature=0.01), said.append)
    assert said == [f"told: 1.0000 (0.2065 … 1.0000) of 1 problem, pass@2 1.0000, {result.seconds:.1f} s"]
    assert result.row() == {
        "task": "told", "kind": "generative", "problems": 1, "accuracy": 1.0, "low": pytest.approx(0.2065, abs=1e-4), "high": 1.0,
        "chance": 0.0, "centered": 1.0, "seconds": result.seconds, "pass_at_k": 1.0,
    }  # fmt: skip


def test_chat_without_grades_is_not_evaluated(model) -> None:
    task = Told(["a"])
    task.kind = "chat"
    with pytest.raises(ValueError, match="told cannot grade replies"):
        evaluate_task(model, TOKENIZER, task, ChatEvalFlags())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"max_problems": 0}, "invalid max_problems 0"),
        ({"batch_size": 0}, "invalid batch_size 0"),
        ({"num_samples": 0}, "invalid num_samples 0"),
        ({"max_new_tokens": 0}, "invalid max_new_tokens 0"),
        ({"num_samples": 2}, "num_samples above 1 needs a temperature above 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ChatEvalFlags(**wrong)


def test_the_greedy_reply_does_not_depend_on_the_batch(model) -> None:
    answers = ["?"] * 9
    shown = [
        evaluate_task(model, TOKENIZER, Told(answers), ChatEvalFlags(batch_size=b, max_new_tokens=10)).sample["text"] for b in (1, 3, 32)
    ]
    assert shown[0] == shown[1] == shown[2] != ""
