"""The long prompts as tasks of the registry: how they are laid out, their options, their grading."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.tasks.long.filler import NOISE, WORDS, different_words, essay, noise, variable_names
from nanochat.tasks.long.prompt_task import woven
from nanochat.tasks.long.word_counts import FrequentWords, zeta
from nanochat.tasks.registry import open_task
from nanochat.tasks.task import dialogue


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 12), max_size=6), st.sampled_from([" ", "\n"]))
def test_facts_are_woven_in_where_they_are_told_to_be(units: list[int], places: list[int], separator: str) -> None:
    facts = [(min(place, len(units)), f"fact{i}") for i, place in enumerate(places)]
    text, spans = woven([f"u{unit}" for unit in units], facts, separator)
    assert [text[begin:end] for begin, end in spans] == [fact for _, fact in facts]
    parts = text.split(separator) if text else []
    assert [part for part in parts if part[0] == "u"] == [f"u{unit}" for unit in units]
    for place, fact in facts:
        assert sum(part[0] == "u" for part in parts[: parts.index(fact)]) == place


@pytest.mark.parametrize("words", [0, 1, 18, 19, 20, 1000])
def test_filler_has_the_words_asked_for(words: int) -> None:
    lines, sentences = noise(words), essay(random.Random(1), words)
    assert len(" ".join(lines).split()) == len(" ".join(sentences).split()) == words
    assert " ".join(lines) == " ".join([NOISE] * 60)[: len(" ".join(lines))]
    assert "".join(essay(random.Random(1), words + 50)).startswith("".join(sentences))
    assert all(sentence.endswith(".") for sentence in sentences[:-1])


def test_words_and_names_are_different_even_where_nearly_all_are_drawn() -> None:
    rng = random.Random(0)
    words = different_words(rng, len(WORDS) + 500, WORDS, {"apple"})
    assert len(set(words)) == len(words) == len(WORDS) + 500 and "apple" not in words and set(WORDS) - {"apple"} <= set(words)
    assert different_words(random.Random(3), 700, WORDS, set())[:600] == different_words(random.Random(3), 600, WORDS, set())
    made_up = different_words(random.Random(5), len(WORDS) + 50, WORDS, set())[-50:]
    assert not set(made_up) & set(different_words(random.Random(5), len(WORDS) + 50, WORDS, set(made_up)))
    assert len(set(variable_names(rng, 26, 1))) == 26 and len(set(variable_names(rng, 300, 2))) == 300


@pytest.mark.parametrize("alpha", [1.2, 2.0, 3.5])
def test_the_three_most_frequent_words_are_told_apart_with_the_least_filler(alpha: float) -> None:
    task = FrequentWords(alpha=alpha, filler=100_000, vocabulary=5)
    for filler in range(task.least_filler, task.least_filler + 60):
        prompt = task.write(random.Random(0), filler)
        ((begin, end),) = prompt.facts
        counts = Counter(prompt.text[begin:end].split(" "))
        assert counts.pop("...") > 0
        first = min(counts.pop(answer) for answer in prompt.answers)
        assert first > max(counts.values(), default=0)
    assert zeta(2.0) == pytest.approx(1.6449340668482264, abs=1e-12) and zeta(4.0) == pytest.approx(1.0823232337111382, abs=1e-12)


def test_filler_is_what_a_conversation_is_long_by() -> None:
    for name, per_unit in (("passkey", 1), ("niah", 4.6), ("niah:haystack=essay", 5), ("niah:haystack=needles", 60), ("variables", 4.6)):
        short, long = (
            len(open_task(f"{name.partition(':')[0]}:filler={n}:{name.partition(':')[2]}", "train", 0)[0]["messages"][0]["content"])
            for n in (100, 1100)
        )
        assert (long - short) / 1000 == pytest.approx(per_unit, rel=0.2)


def test_replies_are_graded_whole_and_in_any_order_where_order_does_not_matter() -> None:
    needle, variables, common = (open_task(name, "test", 0) for name in ("niah", "variables:chains=3", "common_words:common=2"))
    said = dialogue("?", "The special magic number for old-cat is 12", prefix="The special magic number for old-cat is")
    assert needle.grade(said, "12") == needle.grade(said, "The special magic number for old-cat is 12.") == 1
    assert needle.grade(said, "It is 12") == needle.grade(said, "112") == needle.grade(said, "") == 0
    said = dialogue("?", "they are: AB CD", prefix="they are:")
    assert variables.grade(said, "they are: CD AB.") == variables.grade(said, "AB CD") == 1
    assert variables.grade(said, "AB") == variables.grade(said, "AB CD AB") == variables.grade(said, "AB, CD") == 0
    said = dialogue("?", "list are: 1. river 2. apple", prefix="list are:")
    assert common.grade(said, "1. apple 2. river") == 1
    assert common.grade(said, "apple river") == common.grade(said, "1. apple 2. apple") == 0


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("passkey:digits=0", "digits is 0; it must be at least 1"),
        ("passkey:filler=-1", "filler is -1; it must be at least 0"),
        ("niah:haystack=hay", "haystack is 'hay'; it must be one of noise, essay, needles"),
        ("niah:keys=numbers", "keys is 'numbers'; it must be one of words, uuids, nouns"),
        ("niah:values=words", "values is 'words'; it must be one of numbers, uuids"),
        ("niah:needles=0", "needles is 0"),
        ("niah:values=uuids:digits=9", "digits is 9; a short UUID has at most 8"),
        ("niah_multikey:digits=1:needles=5", "needles is 5; 9 different keys and values allow 4"),
        ("variables:hops=0", "hops is 0"),
        ("variables:chains=0", "chains is 0"),
        ("variables:letters=0", "letters is 0"),
        ("variables:digits=1:chains=5", "digits is 1; 9 values are too few for 5 chains"),
        ("variables:shots=-1", "shots is -1"),
        ("common_words:common=0", "common is 0"),
        ("common_words:common=200", "common is 200; with words=all it can be at most"),
        ("common_words:repeats=2:others=2", "repeats is 2; it must be at least 3"),
        ("common_words:words=verbs", "words is 'verbs'"),
        ("common_words:others=4:repeats=9", "shot_repeats is 3; it must be at least 5"),
        ("frequent_words:filler=72", "filler is 72; it must be at least 74"),
        ("frequent_words:vocabulary=3", "vocabulary is 3"),
        ("frequent_words:letters=1:vocabulary=30", "vocabulary is 30; 1 letters make 26 words"),
        ("frequent_words:alpha=1", "alpha is 1.0; it must be above 1"),
        ("frequent_words:alpha=nan", "alpha is nan"),
    ],
)
def test_a_wrong_option_is_one_line(spec: str, why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)) as error:
        open_task(spec, "train", 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["variables", "common_words", "frequent_words"])
def test_what_is_everywhere_has_no_depth(name: str) -> None:
    with pytest.raises(ValueError, match="depth is 0.5"):
        open_task(name, "train", 0).write(random.Random(0), 200, 0.5)
