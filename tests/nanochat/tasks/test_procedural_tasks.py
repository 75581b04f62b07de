"""Every procedural task: its answers against an independent computation, its options, its grading."""

from __future__ import annotations

import re

import pytest

from nanochat.common import UserError
from nanochat.tasks.arithmetic import Compare
from nanochat.tasks.reasoning_gym import Gym
from nanochat.tasks.recall import Recall
from nanochat.tasks.registry import open_task
from nanochat.tasks.spelling import SpellingBee
from nanochat.tasks.talk.identity import TOPICS, Identity
from nanochat.tasks.task import dialogue, reference
from nanochat.tasks.words import COMMON


def asked(spec: str, count: int = 200) -> list[tuple[str, dict]]:
    """Question and conversation of the first examples of both splits."""
    tasks = [open_task(spec, split, 7) for split in ("train", "test")]
    return [(task[i]["messages"][0]["content"], task[i]) for task in tasks for i in range(count)]


def test_a_word_is_spelled_letter_by_letter() -> None:
    words = set()
    for question, conversation in asked("spelling"):
        (word,) = re.findall('"(.*)"', question)
        words.add(word)
        assert reference(conversation) == " ".join(word)
    assert len(words) > 200 and words & set(COMMON) and words - set(COMMON)


@pytest.mark.parametrize("syllables", [1, 3])
def test_simple_words_have_the_syllables_asked_for(syllables: int) -> None:
    for _, conversation in asked(f"spelling:words=simple:syllables={syllables}", 20):
        assert re.fullmatch(f"([^aeiou ] [aeiou] ?){{{syllables}}}", reference(conversation) + " ")


def test_letters_are_counted_by_either_way() -> None:
    ways, counts = set(), set()
    for question, conversation in asked("spellingbee"):
        letter, word = sorted(re.findall('"(.*?)"', question), key=len)
        count = len(re.findall(letter, word))
        answer = reference(conversation)
        ways.add(spelled := ":" in answer)
        counts.add(count)
        assert answer.rpartition(":")[2].strip() == str(count)
        if spelled:
            assert re.sub("[0-9 ]", "", answer.partition(":")[0]) == word
            assert re.findall("[0-9]", answer.partition(":")[0]) == [str(i + 1) for i in range(count)]
    assert ways == {True, False} and {0, 1, 2} <= counts


def test_only_the_number_at_the_end_counts() -> None:
    task = SpellingBee(how="tool")
    conversation = dialogue("?", "3")
    assert task.grade(conversation, "3.") == task.grade(conversation, "s t r1 r2 r3: 3") == 1
    assert task.grade(conversation, "3: 2") == task.grade(conversation, "it is 3") == task.grade(conversation, "three") == 0


def test_sums_are_right() -> None:
    terms = set()
    for question, conversation in asked("arithmetic:terms=4:digits=2"):
        (expression,) = re.findall(r"(?:^|(?:is|'s|Calculate|out|Compute) )([-+*() 0-9]+)[?.]?$", question)
        terms.add(len(re.findall("[0-9]+", expression)))
        assert reference(conversation) == str(eval(expression)), expression
        assert all(int(number) < 100 for number in re.findall("[0-9]+", expression))
    assert terms == {2, 3, 4}


def test_numbers_are_compared_right() -> None:
    for question, conversation in asked("compare:digits=3"):
        numbers = [int(number) for number in re.findall("[0-9]+", question)]
        assert int(reference(conversation)) == (max if re.search("larger|greater", question) else min)(numbers)
        assert numbers[0] != numbers[1]
    assert Compare().chance(conversation) == 0.5


OPERATIONS = {
    "Repeat": lambda items: items,
    "Reverse": lambda items: list(reversed(items)),
    "Sort": sorted,
    "What is the first": lambda items: items[:1],
    "What is the last": lambda items: items[-1:],
}


def test_lists_are_done_as_asked() -> None:
    seen = set()
    for question, conversation in asked("lists"):
        ask, _, items = question.partition(": ")
        (name,) = [name for name in OPERATIONS if ask.startswith(name)]
        seen.add(name)
        assert reference(conversation).split() == OPERATIONS[name](items.split())
        assert 2 <= len(set(items.split())) == len(items.split()) <= 6
    assert seen == set(OPERATIONS)


def test_what_is_to_be_recalled_is_said_once_before_the_filler() -> None:
    for question, conversation in asked("recall:facts=3:filler=30:digits=5", 40):
        name = re.findall(r"What is the code of (\w+)\?$", question)[0]
        facts = re.findall(r"The code of (\w+) is ([0-9]+)\.", question)
        assert dict(facts)[name] == reference(conversation) and len(facts) == len(dict(facts)) == 3
        assert all(len(code) == 5 for _, code in facts)
        after = question.split(facts[-1][1] + ".")[1]
        assert len(re.findall(r"\.", after)) == 30 and len(after.split()) > 200
    short, long = (len(open_task(f"recall:filler={n}", "train", 0)[0]["messages"][0]["content"]) for n in (0, 1000))
    assert long > 30_000 > 500 > short


def test_a_code_is_recalled_digit_by_digit() -> None:
    task, conversation = Recall(), dialogue("?", "0491")
    assert task.grade(conversation, "0491.") == 1
    assert task.grade(conversation, "491") == task.grade(conversation, "0,491") == task.grade(conversation, "04910") == 0


def test_the_assistant_is_asked_who_it_is_in_training_and_otherwise_in_the_test() -> None:
    train, test = Identity(split="train"), Identity(split="test")
    questions = [{task[i]["messages"][0]["content"] for i in range(4000)} for task in (train, test)]
    assert {"Who are you?", "What is your name?", "Who made you?"} <= questions[0]
    assert not questions[0] & questions[1] and len(questions[1]) > 500
    assert {train[i]["topic"] for i in range(300)} == set(TOPICS) == {test[i]["topic"] for i in range(300)}


def test_an_identity_is_told_by_what_it_must_say() -> None:
    for name, topic in TOPICS.items():
        conversation = dialogue("?", topic.answer, topic=name)
        others = [other.answer for other in TOPICS.values() if other is not topic]
        assert Identity().grade(conversation, topic.answer) == Identity().grade(conversation, topic.answer.upper()) == 1
        assert not any(Identity().grade(conversation, other) for other in others)
        assert Identity().grade(conversation, "I am ChatGPT, a language model made by OpenAI.") == 0


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("spelling:words=long", "words is 'long'; it must be one of any, simple"),
        ("spelling:words=simple:syllables=0", "syllables is 0; it must be at least 1"),
        ("spellingbee:how=guess", "how is 'guess'"),
        ("arithmetic:digits=0", "digits is 0"),
        ("arithmetic:terms=1", "terms is 1; it must be at least 2"),
        ("arithmetic:operations=+/", "operations is '/'"),
        ("arithmetic:operations=", "operations is empty"),
        ("compare:digits=0", "digits is 0"),
        ("lists:do=shuffle", "do is 'shuffle'"),
        ("lists:items=1", "items is 1; it must be at least 2"),
        ("lists:items=27", "there are only 26 letters"),
        ("recall:facts=0", "facts is 0"),
        ("recall:facts=100000", "there are names for 10000"),
        ("recall:filler=-1", "filler is -1"),
        ("lists:items=few", "invalid items 'few'; expected int"),
        ("lists:pieces=3", "has no option 'pieces=3'; there are do=…, items=…"),
        ("lists:3", "has no option '3'"),
        ("identity:x=1", "has no option 'x=1'; there are none"),
        ("gym", "names no data set of reasoning-gym"),
        ("gym:basic_arithmetics", "reasoning-gym has no data set 'basic_arithmetics'; there are ab, "),
        ("gym:basic_arithmetic:min_terms=9:max_terms=3", "gym:basic_arithmetic does not take"),
        ("gym:basic_arithmetic:terms=3", "has no option 'terms=3'; there are min_terms=…"),
        ("gym:basic_arithmetic:min_terms=x", "invalid min_terms 'x'"),
        ("gym:rush_hour", "gym:rush_hour has no answers to train on"),
    ],
)
def test_a_wrong_spec_is_one_line(spec: str, why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)) as error:
        open_task(spec, "train", 0)
    assert "\n" not in str(error.value)


def test_options_of_the_library_reach_it() -> None:
    few, many = (Gym(dataset="basic_arithmetic", options={"min_terms": n, "max_terms": n}) for n in (2, 6))
    length = [max(len(task[i]["messages"][0]["content"]) for i in range(20)) for task in (few, many)]
    assert length[0] < length[1]
    assert open_task("gym:basic_arithmetic:allow_parentheses=0", "train", 0)[0]


def test_a_scorer_that_cannot_read_a_reply_gives_nothing() -> None:
    task = Gym(dataset="prime_factorization")
    assert task.grade(task[0], "zzz") == 0 and task.grade(task[0], reference(task[0])) == 1
    partial = Gym(dataset="power_function")  # whose scorer gives a hundredth for any reply
    assert 0 < partial.grade(partial[0], "zzz") < 1 == partial.grade(partial[0], reference(partial[0]))
