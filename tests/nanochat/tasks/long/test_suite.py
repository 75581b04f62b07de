"""The long-context suites: prompts against independent solvers, lengths, depths, what is held out, scores."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks.long.filler import WORDS, essay
from nanochat.tasks.long.suite import SUITES, Example, Suite, fill
from nanochat.tasks.registry import open_task

PLACED = [name for name in SUITES if name == "passkey" or name.startswith("niah")]
VARIANTS = [(name, easy) for name in SUITES for easy in (False, True)]


@cache
def bpe() -> Tokenizer:
    """Some four bytes a token, as in a small real vocabulary."""
    rng = random.Random(0)
    needle = "One of the special magic numbers for quiet-lamp is: 1. The grass is green. The sky is blue. Here we go. "
    return Tokenizer.train([" ".join([*essay(rng, 300), *rng.sample(WORDS, len(WORDS)), needle * 20]) for _ in range(20)], 800)


def suite(name: str, easy: bool = False, **options) -> Suite:
    return Suite(name, bpe().encode, easy, **options)


def training_spec(made: Suite, length: int) -> str:
    """Spec of the registry for conversations like the suite's, with prompts of about `length` tokens."""
    task = made._task(length)
    filler, _ = made._fitted(task, length, "0", None)
    options = [f for f in dataclasses.fields(task) if not f.kw_only and f.name != "filler" and getattr(task, f.name) != f.default]
    return ":".join([task.label, f"filler={filler}", *(f"{f.name}={getattr(task, f.name)}" for f in options)])


def last(pattern: str, text: str) -> str:
    return re.findall(pattern, text, re.DOTALL)[-1]


def needles(text: str) -> list[tuple[str, str]]:
    return re.findall(r"One of the special magic (?:number|uuid)s for (\S+) is: (\S+)\.(?=\s|$)", text)


def solve(name: str, prompt: str) -> set[str]:
    """The answers, by reading the prompt; it knows nothing of how the prompt was made."""
    if name == "passkey":
        return {key for pair in re.findall(r"The pass key is (\d+)\. Remember it\. (\d+) is the pass key\.", prompt) for key in pair}
    if name.startswith("niah"):
        asked = last(r"for (\S+) mentioned", prompt)
        return {value for key, value in needles(prompt) if key == asked}
    if name == "variable_tracking":
        text = prompt.split("Memorize and track")[-1]
        known = {last(r"assigned the value (\d+)", text)}
        for left, right in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+) ?$", text, re.MULTILINE):
            known |= {left} if right in known else set()
        return {name for name in known if name.isalpha()}
    if name == "common_words_extraction":
        count = int(last(r"What are the (\d+) most", prompt))
        numbered, words = zip(*re.findall(r"(\d+)\. (\w+)", prompt.split("appear most often.\n")[-1].split("\nQuestion")[0]), strict=True)
        assert [int(n) for n in numbered] == list(range(1, len(words) + 1))
    else:
        count = 3
        words = [word for word in last(r"coded words\. (.*)\nQuestion", prompt).split(" ") if word != "..."]
    ranked = Counter(words).most_common(count + 1)
    assert len(ranked) == count or ranked[count - 1][1] > ranked[count][1], "the answer is not determined"
    return {word for word, _ in ranked[:count]}


@pytest.mark.parametrize(("name", "easy"), VARIANTS)
def test_answers_follow_from_the_prompt_which_is_as_long_as_asked(name: str, easy: bool) -> None:
    made = suite(name, easy)
    for length in (2048, 8192):
        for example in made.examples(4, length, 5):
            assert solve(name, example.prompt) == set(example.answers) and len(set(example.answers)) == len(example.answers)
            assert example.length == len(bpe().encode(example.prompt))
            # A whole needle of two UUIDs is more than 2 % of a short prompt.
            unit = max(len(bpe().encode(line)) for line in example.prompt.splitlines()[1:-1]) if "multikey_3" in name else 0
            assert min(0.98 * length, length - unit) <= example.length + made.reply_tokens <= length
            assert example.prompt == example.question + example.prefix and example.prefix.strip().endswith(("is", ":", "are"))
            assert made.score(example, " " + " ".join(example.answers)) == 1


@pytest.mark.parametrize("name", SUITES)
def test_lengths_hold_for_another_tokenizer(name: str) -> None:
    """Of one token for each word, number and sign."""
    made = Suite(name, re.compile(r"\w+|[^\w\s]").findall)
    for example in made.examples(2, 20_000, 1):
        assert 0.99 * 20_000 <= len(re.findall(r"\w+|[^\w\s]", example.prompt)) + made.reply_tokens <= 20_000


@pytest.mark.parametrize(("name", "easy"), VARIANTS)
def test_the_facts_are_what_is_needed_and_nothing_beside_them_is(name: str, easy: bool) -> None:
    for example in suite(name, easy).examples(4, 3000, 2):
        facts = [example.prompt[begin:end] for begin, end in example.facts]
        if name not in PLACED and name != "variable_tracking":
            assert len(facts) == 1 and facts[0] in example.prompt.split("\nQuestion")[-2]
            assert set(example.answers) <= set(re.findall(r"[a-z]+", facts[0]))
            continue
        question = example.prompt.splitlines()[-1]
        if name == "passkey":
            assert facts == [f"The pass key is {example.answers[0]}. Remember it. {example.answers[0]} is the pass key."]
            assert example.prompt.count(facts[0]) == 1
        else:
            head = "Memorize and track" if name == "variable_tracking" else ""
            assert solve(name, "\n".join([head, *facts, question])) == set(example.answers)
            assert all(example.prompt.count(fact.strip()) == 1 for fact in facts)
        without = "".join(
            example.prompt[a:b] for a, b in zip([0, *(e for _, e in example.facts)], [*(b for b, _ in example.facts), None], strict=True)
        )
        assert not solve(name, without)


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_depth_is_where_the_fact_is(name: str, depth: float) -> None:
    made = suite(name)
    for example in made.examples(2, 8192, 0, depth=depth):
        (begin, _), text = example.facts[0], example.prompt.split("What is the")[0]
        assert example.depth == pytest.approx(depth, abs=0.05)
        assert begin / len(text) == pytest.approx(depth, abs=0.06)
    asked = [[(e.answers, e.question.splitlines()[-1]) for e in made.examples(2, 8192, 0, depth=d)] for d in (None, depth)]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("name", PLACED)
def test_depths_that_are_drawn_are_everywhere(name: str) -> None:
    depths = [e.depth for e in suite(name, easy=True).examples(60, 1200, 0)]
    assert min(depths) < 0.15 and max(depths) > 0.85 and 0.35 < sum(depths) / 60 < 0.65


def test_there_is_one_needle_or_there_are_several_and_what_is_asked_comes_once() -> None:
    for name in PLACED[1:]:
        for easy in (False, True):
            for example in suite(name, easy).examples(3, 4096, 9):
                found, asked = needles(example.prompt), last(r"for (\S+) mentioned", example.prompt)
                assert [key for key, _ in found].count(asked) == [value for _, value in found].count(example.answers[0]) == 1
                assert len(found) == 1 if "single" in name else len(found) == 4 if name == "niah_multikey_1" else len(found) > 30


def test_an_example_is_a_function_of_its_suite_length_seed_and_number(root: Path) -> None:
    for name, easy in VARIANTS:
        made = suite(name, easy)
        examples = made.examples(4, 3000, 1)
        assert suite(name, easy).examples(2, 3000, 1) == examples[:2]
        others = [made.examples(1, 3000, 2), made.examples(1, 3100, 1), examples[1:2]]
        assert all(other[0].prompt != examples[0].prompt for other in others)
    code = """
import hashlib
from nanochat.tasks.long.suite import SUITES, Suite
prompts = "".join(Suite(name, str.split).examples(1, 3000, 7)[0].prompt for name in SUITES)
print(hashlib.sha256(prompts.encode()).hexdigest())
"""
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, env=os.environ | {"PYTHONHASHSEED": "3"}, cwd=root, capture_output=True, text=True, check=True).stdout
    here = "".join(Suite(name, str.split).examples(1, 3000, 7)[0].prompt for name in SUITES)
    assert said.strip() == hashlib.sha256(here.encode()).hexdigest()


def asked(name: str, prompt: str) -> str:
    """What is asked for, by reading the prompt."""
    if name.startswith("niah"):
        return last(r"special magic \w+ for (\S+) mentioned", prompt)
    if name == "variable_tracking":
        return last(r"assigned the value (\d+)", prompt)
    return " ".join(sorted(solve(name, prompt)))


@pytest.mark.parametrize(("name", "easy"), VARIANTS)
def test_what_a_suite_asks_no_training_has_asked(name: str, easy: bool) -> None:
    """With the same seeds and options, and with others."""
    made = suite(name, easy)
    tested = {asked(name, example.prompt) for seed in range(3) for example in made.examples(25, 2048, seed)}
    specs = {training_spec(made, 2048)}
    if name.startswith("niah"):
        specs |= {spec.replace(*swap) for spec in specs for swap in (("niah:", "niah_multikey:"), ("niah_multikey:", "niah:"))}
    for spec in specs:
        for seed in (0, 1):
            task = open_task(spec, "train", seed)
            trained = {asked(name, task[i]["messages"][0]["content"]) for i in range(60)}
            assert len(trained) > 25 and not tested & trained
    assert len(tested) > 15


@pytest.mark.parametrize(("name", "easy"), VARIANTS)
def test_training_conversations_are_the_prompts_of_the_suite(name: str, easy: bool) -> None:
    made = suite(name, easy)
    task, (example,) = open_task(training_spec(made, 3000), "train", 0), made.examples(1, 3000, 0)
    for i in range(3):
        conversation = task[i]
        question, answer = (message["content"] for message in conversation["messages"])
        assert question.split(".")[0] == example.question.split(".")[0] and len(question) == pytest.approx(len(example.question), rel=0.1)
        # With what the question asks for in its place, the beginning of the answer is the suite's prefix.
        prefix = example.prefix.strip().replace(asked(name, example.prompt), asked(name, question + answer))
        assert answer.startswith(f"{prefix} ")
        right = solve(name, f"{question} {prefix}")
        assert right and right <= set(re.findall(r"[\w-]+", answer.removeprefix(prefix)))
        assert task.grade(conversation, answer) == task.grade(conversation, answer.removeprefix(prefix) + ".") == 1
        wrong = answer.replace(min(right), "q")
        assert task.grade(conversation, wrong) == task.grade(conversation, f"{answer} {min(right)}") == 0


def test_the_wording_is_that_of_the_definitions() -> None:
    """The templates of RULER with its own replacements, and landmark-attention's lines, at their smallest."""
    template = (
        "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. I will quiz you about the "
        "{type_needle_v} afterwards.\n{context}\nWhat are all the special magic {type_needle_v} for {query} mentioned in the provided "
        "text? The special magic {type_needle_v} for {query} mentioned in the provided text are"
    )
    template = template.replace("Some", "A").replace("are all", "is").replace("are", "is")
    example = suite("niah_single_1").examples(1, 400, 0)[0]
    context = example.prompt.split("afterwards.\n")[1].split("\nWhat is")[0]
    query = last(r"for (\S+) mentioned", example.prompt)
    assert example.prompt == template.format(type_needle_v="number", context=context, query=query)
    noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    lines = [line for line in context.split("\n") if not line.startswith("One of the special magic numbers for")]
    assert lines and all(line == noise for line in lines[:-1]) and noise.startswith(lines[-1])

    passkey = suite("passkey").examples(1, 400, 0)[0]
    before, after = (len(line) for line in passkey.prompt.splitlines()[1:4:2])
    garbage, key = " ".join([noise] * 20), passkey.answers[0]
    assert passkey.prompt == "\n".join(
        [
            "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about the "
            "important information there.",
            garbage[:before],
            f"The pass key is {key}. Remember it. {key} is the pass key.",
            garbage[:after],
            "What is the pass key? The pass key is",
        ]
    )
    assert all(1 <= int(e.answers[0]) <= 50_000 for e in suite("passkey").examples(50, 400, 0))


def test_examples_before_the_question_are_as_in_the_definitions() -> None:
    tracking = suite("variable_tracking").examples(1, 4096, 0)[0].prompt
    shot, rest = tracking.split("\n\nMemorize and track the chain(s) of variable assignment hidden in the following text.\n\n")
    assert shot.startswith("Memorize and track the chain(s)") and 400 < len(bpe().encode(shot)) < 540
    assert set(last("they are:  (.*)$", shot).split()) == solve("variable_tracking", shot.rpartition("they")[0])
    assert last(r"assigned the value (\d+)", shot) not in rest and len(re.findall(r"= VAR [A-Z]{5} \n", rest)) == 4

    for length, common, others in ((3000, 6, 1), (12_000, 30, 3)):
        counting = suite("common_words_extraction").examples(1, length, 0)[0].prompt
        shot, rest = counting.split("\nBelow is a numbered list of words.")
        counts = Counter(re.findall(r"\d+\. (\w+)", rest.split("\nQuestion")[0])).values()
        assert Counter(counts)[common] == 10 and set(counts) == {common, others}
        assert set(re.findall(r"\d+\. (\w+)", shot.rpartition("list are:")[2])) == solve("common_words_extraction", shot)

    coded = Counter(last(r"coded words\. (.*)\nQuestion", suite("freq_words_extraction").examples(1, 8192, 0)[0].prompt).split(" "))
    (dots, most), *ranked = coded.most_common()
    assert dots == "..." and all(len(word) == 6 for word, _ in ranked)
    for rank, (_, count) in enumerate(ranked[:8], start=2):
        assert count == pytest.approx(most / rank**2, abs=1.5)


@pytest.mark.parametrize(
    ("name", "easy", "reply", "score"),
    [
        ("passkey", False, " 123. Remember 4", 1), ("passkey", False, " 1234", 0), ("passkey", False, " 9 123", 0),
        ("passkey", False, " no idea", 0), ("passkey", True, " 0123", 1),
        ("niah_single_1", False, " it is 123!", 1), ("niah_single_1", False, " x1234", 1), ("niah_single_1", False, " 12", 0),
        ("niah_single_1", True, " x1234", 0), ("niah_single_1", True, " 123.", 1), ("niah_single_1", True, "", 0),
    ],
)  # fmt: skip
def test_one_answer_is_scored_by_the_metric_of_its_definition(name: str, easy: bool, reply: str, score: float) -> None:
    assert suite(name, easy).score(Example("", ("123",), None, 0, (), ""), reply) == score


def test_several_answers_are_scored_by_their_share() -> None:
    example = Example("", ("QXA", "ab", "LMN", "c-d"), None, 0, (), "")
    for easy in (False, True):
        made = suite("variable_tracking", easy)
        assert made.score(example, "qxa AB lmn C-D") == 1
        assert made.score(example, "LMN, ab.") == 0.5
        assert made.score(example, "nothing") == 0
    assert suite("variable_tracking").score(example, "cabs") == 0.25 > suite("variable_tracking", True).score(example, "cabs")


def test_bad_parameters_are_refused_by_name() -> None:
    made, tracking = suite("niah_single_1"), suite("variable_tracking")
    for call, why in (
        (lambda: made.examples(0, 2048, 0), "count is 0"),
        (lambda: made.examples(1, 150, 0), r"length is 150; a prompt of niah_single_1 and its reply need at least \d+ tokens"),
        (lambda: made.examples(1, -5, 0), "length is -5"),
        (lambda: made.examples(1, 2048, 0, depth=1.1), "depth is 1.1; it must be in 0 … 1"),
        (lambda: tracking.examples(1, 2048, 0, depth=0.5), "depth is 0.5; variables has no single fact to place"),
        (lambda: suite("freq_words_extraction").examples(1, 200, 0), "length is 200; freq_words_extraction takes at least 250"),
        (lambda: suite("passkey", hops=3), "unknown option hops of passkey; options are digits"),
        (lambda: suite("passkey", filler=3), "unknown option filler of passkey"),
        (lambda: suite("passkey", reply_tokens=0), "reply_tokens is 0"),
        (lambda: suite("niah_single_1", digits=0).examples(1, 2048, 0), "digits is 0"),
        (lambda: suite("niah_multikey_1", True, needles=50).examples(1, 2048, 0), "needles is 50; 90 different"),
        (lambda: suite("niah_single_3", reply_tokens=5).examples(1, 2048, 0), r"reply_tokens of niah_single_3 is 5; an answer has \d+"),
        (lambda: suite("variable_tracking", letters=1, hops=30).examples(1, 2048, 0), "letters is 1; that makes 26 names"),
    ):
        with pytest.raises(ValueError, match=why) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no suite 'pass_key'; did you mean passkey"):
        suite("pass_key")


def test_lengths_at_the_edge_fit_or_are_refused() -> None:
    for name in ("passkey", "niah_multikey_2"):
        made = suite(name, True)
        with pytest.raises(ValueError, match="need at least") as error:
            made.examples(1, 1, 0)
        least = int(re.findall(r"need at least (\d+) tokens", str(error.value))[0])
        assert made.examples(1, least, 0)[0].length <= least - made.reply_tokens


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(0, 5), st.integers(0, 30_000))
def test_filler_fills_the_room(units: list[int], least: int, more: int) -> None:
    """Units whose tokens differ, and some of none."""
    units = [*units, 7]
    tokens = lambda n: 11 + n // len(units) * sum(units) + sum(units[: n % len(units)])  # noqa: E731
    room = tokens(least) + more
    filler, length = fill(tokens, least, room)
    assert filler >= least and length == tokens(filler) <= room
    assert room - length <= room // 1000 or tokens(filler + 1) > room
