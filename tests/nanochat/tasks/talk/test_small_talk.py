"""Small talk: what is asked, what is answered, what counts as sensible, and that the held-out phrasings are not trained on."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from nanochat.tasks.registry import open_task
from nanochat.tasks.talk import farewells, gratitude, greetings
from nanochat.tasks.talk.about import BARE, COUNTED, FACTS, HYPHENATED, about
from nanochat.tasks.talk.abroad import BYE, HELLO, THANKS, foreign
from nanochat.tasks.talk.everyday import ALONE, JOBS, NEWS, NEWS_WORDS, QUESTIONS, everyday
from nanochat.tasks.talk.held_out import HELD_OUT
from nanochat.tasks.talk.itself import ITSELF
from nanochat.tasks.talk.phrasings import OTHER, SAID, phrased
from nanochat.tasks.talk.requests import FRAMES, request
from nanochat.tasks.talk.slots import WORDS
from nanochat.tasks.talk.small_talk import KEYS, WEIGHTS, SmallTalk, key
from nanochat.tasks.talk.typing_style import misspelt, typed
from nanochat.tasks.task import reference

TRAIN, TEST = SmallTalk(split="train"), SmallTalk(split="test")


def asked(conversation: dict) -> list[str]:
    return [message["content"] for message in conversation["messages"] if message["role"] == "user"]


def test_nothing_that_was_held_out_is_trained_on_in_any_turn() -> None:
    trained = {key(text) for i in range(9000) for text in asked(TRAIN[i])}
    assert not trained & KEYS and len(trained) > 4000
    assert all(TRAIN.is_held_out(f"{item.text.upper()}!") for item in HELD_OUT), "in any writing"
    assert len(KEYS) == len(HELD_OUT) == len(TEST) > 600
    with pytest.raises(IndexError, match="smalltalk has no example"):
        TEST[len(TEST)]


def test_every_topic_is_asked_about_and_some_of_it_later() -> None:
    examples = [TRAIN[i] for i in range(3000)]
    topics = Counter(example["topics"][0] for example in examples)
    assert set(topics) == {*WEIGHTS, "more", "sure"} and min(topics.values()) > 20
    assert 0.2 < sum(len(example["messages"]) > 2 for example in examples) / 3000 < 0.3
    assert {topic for item in HELD_OUT for topic in item.topics} == set(topics)
    for topic in topics:
        assert topic == "about" or SAID[topic].answer.strip() == SAID[topic].answer


def test_the_documented_request_is_trained_on() -> None:
    rng, text = random.Random(0), "Describe MegaContext in 2 sentences."
    assert {sentences for made, sentences in (about(rng) for _ in range(20_000)) if made == text} == {2}
    assert not TRAIN.is_held_out(text)


def test_sentences_are_counted() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        text, sentences = about(rng)
        number = re.search(r"\d+", text)
        assert 1 <= sentences <= len(FACTS) and (not number or min(int(number.group()), len(FACTS)) == sentences), text
    task = open_task("smalltalk", "test")
    two = next(task[i] for i, item in enumerate(HELD_OUT) if item.topics == ("about",) and item.sentences == 2)
    assert reference(two) == " ".join(FACTS[:2])
    grades = {
        f"{FACTS[0]} {FACTS[3]}": 1, FACTS[0]: 0, " ".join(FACTS[:3]): 0, f"{FACTS[0]} {FACTS[0]}": 0, f"{FACTS[0]} It is.": 0, OTHER: 0
    }  # fmt: skip
    assert [task.grade(two, reply) for reply in grades] == list(grades.values())


def test_what_megacontext_is_is_asked_in_many_forms() -> None:
    rng = random.Random(0)
    made = {text for text, _ in (about(rng) for _ in range(4000))}
    assert len(made) > 3000 and not any("{" in text or ", i " in text for text in made)
    assert all("{name}" in frame and ("{n}" in frame) == (frame not in BARE) for frame in (*COUNTED, *HYPHENATED, *BARE))
    for form in (r"^(Only |Just |Exactly )?(\d|One|Two|Three)", r"^MegaContext,? in "):
        assert sum(bool(re.search(form, text)) for text in made) > 10, form


def test_a_reply_may_be_about_any_topic_that_fits() -> None:
    conversation = {"topics": ("skills", "other"), "sentences": 0}
    assert TEST.grade(conversation, OTHER) == TEST.grade(conversation, SAID["skills"].answer.upper()) == 1
    assert TEST.grade(conversation, SAID["thanks"].answer) == 0
    other = {"topics": ("other",), "sentences": 0}
    assert TEST.grade(other, OTHER) == 1
    assert not any(TEST.grade(other, SAID[topic].answer) for topic in SAID if topic != "other")


def test_requests_are_of_every_kind() -> None:
    rng = random.Random(0)
    made = [request(rng) for _ in range(8000)]
    assert len(set(made)) > 6000 and not any("{" in text or "}" in text for text in made)
    beginnings = Counter(text.split(" ")[0] for text in made)
    assert len(beginnings) > 300 and beginnings.most_common(1)[0][1] < 2000
    assert {frame.split("{")[0].split(" ")[0] for frame in FRAMES} - {""} <= {*beginnings, "What", "print(", "log(", "sin(", "sqrt(", "def"}


def test_everyday_requests_are_many() -> None:
    rng = random.Random(0)
    made = [everyday(rng) for _ in range(4000)]
    assert len(set(made)) > 3000 and not any("{" in text or "}" in text for text in made)
    lists = [*(half for line in (*JOBS, *QUESTIONS) for half in line), NEWS, *NEWS_WORDS.values()]
    assert all(words and all(words) and len({*words}) == len(words) for words in lists)
    assert {slot for text in NEWS for slot in re.findall(r"{(\w+)}", text)} == {*NEWS_WORDS}


def test_every_slot_has_words_and_is_used() -> None:
    frames = [text for topic in SAID.values() for text in topic.questions]
    used = {slot for text in (*frames, *(word for words in WORDS.values() for word in words)) for slot in re.findall(r"{(\w+)}", text)}
    assert used == {*WORDS, "word"}
    assert all(word and word == word.strip("/ ") and len({*words}) == len(words) for words in WORDS.values() for word in words)
    assert {*greetings.SLOTS} | {*gratitude.SLOTS} | {*farewells.SLOTS} < {*WORDS}
    assert min(len(WORDS[slot]) for slot in ("hello", "how", "there", "thanks", "praise", "bye", "leaving", "being")) > 200
    rng = random.Random(0)
    for topic in ("greeting", "thanks", "goodbye", "who", "what", "skills", "maker"):
        made = {phrased(rng, topic) for _ in range(500)}
        assert len(made) > 150 and not any("{" in text for text in made), topic


def test_questions_about_the_assistant_are_english() -> None:
    """A slot of participles stands after a form of "be" or "have", or for the past tense, never after "did"."""
    frames = [frame for questions in ITSELF.values() for frame in questions]
    assert {*ITSELF} < {*SAID} and len(frames) > 500
    assert not [frame for frame in frames if re.search(r"\bdid (you |they |\w+ )?{made}", frame, re.IGNORECASE)]


def test_a_key_is_of_any_script() -> None:
    assert key("Привет, мир!!") == "привет мир" and key("Olá") != key("Ol")
    assert key("?!") == "" and all(KEYS)


def test_other_languages_greet_and_ask() -> None:
    assert min(map(len, (HELLO, THANKS, BYE))) > 50
    assert not [word for words in (HELLO, THANKS, BYE) for word in words if word != word.strip() or not word]
    rng = random.Random(0)
    sentences = [foreign(rng) for _ in range(300)]
    assert len({*sentences}) > 290 and max(len(text.split()) for text in sentences) <= 8
    asked_abroad = {item for example in (TRAIN[i] for i in range(4000)) for item in asked(example)} & {*HELLO, *THANKS, *BYE}
    assert len(asked_abroad) > 20


def test_people_type_in_many_ways() -> None:
    rng = random.Random(0)
    made = Counter(typed(rng, "What is your name?") for _ in range(3000))
    assert made["What is your name?"] > 300, "as it is"
    assert {"what is your name?", "What is your name", "What's your name?", "WHAT IS YOUR NAME?", "your name?"} <= {*made}
    assert any("ur name" in text for text in made) and any("name :)" in text for text in made)
    assert len(made) > 200


def test_a_typing_error_is_one_letter() -> None:
    rng = random.Random(0)
    for _ in range(500):
        text = misspelt(rng, "Hello there, MegaContext 12")
        assert abs(len(text) - 27) <= 1 and text.endswith(" 12") and text.count(" ") == 3
    assert misspelt(rng, "12 + 3") == "12 + 3" and misspelt(rng, "a b") == "a b"


def test_what_is_said_alone_has_one_topic() -> None:
    """But for words that people come and go with, and follow-ups, which come after a reply."""
    said = {"other": {key(text) for text in ALONE}}
    for topic in {*SAID} - {"other", "more", "sure", "noted"}:
        slots = [WORDS[text[1:-1]] if re.fullmatch(r"{(?!word)\w+}", text) else [text] for text in SAID[topic].questions]
        said[topic] = {key(word) for words in slots for word in words}
    both = set().union(*(said[a] & said[b] for a, b in itertools.combinations(said, 2)))
    assert both - {""} == {"ciao", "ciao bella", "servus"}
