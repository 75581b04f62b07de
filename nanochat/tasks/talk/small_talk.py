"""Small talk: greetings, thanks, who and what the assistant is, MegaContext in n sentences, and a polite answer to all else."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from nanochat.tasks.arithmetic import Arithmetic
from nanochat.tasks.procedural import Drawn, Procedural
from nanochat.tasks.spelling import Spelling
from nanochat.tasks.talk.about import FACTS, about
from nanochat.tasks.talk.held_out import HELD_OUT, Asked
from nanochat.tasks.talk.identity import TOPICS, Identity
from nanochat.tasks.talk.phrasings import FOLLOW_UPS, SAID, phrased
from nanochat.tasks.talk.requests import request
from nanochat.tasks.talk.typing_style import typed
from nanochat.tasks.task import Conversation

WEIGHTS = {
    "other": 50, "about": 34, "greeting": 25, "mood": 15, "thanks": 18, "goodbye": 19, "skills": 13, "who": 9, "what": 8, "maker": 5,
    "memory": 4, "language": 4, "noted": 1,
}  # fmt: skip
FOLLOWING = 0.22  # of the conversations have another turn before
PREFIXED, SUFFIXED = 0.2, 0.1  # of the questions of more than two words, and of all
BEFORE = (
    "Please ", "Hi, ", "Hi there, ", "Hello! ", "Hello, ", "OK, ", "So, ", "And ", "Well, ", "Um, ", "Hey, ", "I wonder, ", "But ",
    "Quick question: ",
)  # fmt: skip
AFTER = (" Please.", " Thanks!", " Thank you.", " :)", " I am curious.", " Be quick.")
_END = re.compile(r"(?<=[.!?])\s+")
_IDENTITY = Identity()


@dataclass
class SmallTalk(Procedural):
    """What people say to an assistant. The test split is `HELD_OUT`, written by hand; nothing in it is trained on."""

    label = "smalltalk"
    reply_tokens = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self.endless = self.split == "train"

    def __len__(self) -> int:
        return len(HELD_OUT) if self.split == "test" else super().__len__()

    def __getitem__(self, index: int) -> Conversation:
        if self.split == "train":
            return super().__getitem__(index)
        self._check_index(index)
        asked = HELD_OUT[index]
        before = [turn for earlier in asked.after for turn in _turns(earlier)]
        return {"messages": [*before, *_turns(asked)], "topics": asked.topics, "sentences": asked.sentences}

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is a text that is held out, if there is one in any turn, else the question."""
        follows = rng.random() < FOLLOWING
        if follows and rng.random() < 0.7:
            topic = rng.choice(FOLLOW_UPS)
        else:
            (topic,) = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))
        asked = _asked(rng, topic)
        before = self._before(rng, topic) if follows else []
        said = [message["content"] for message in before if message["role"] == "user"]
        held_out = next(filter(self.is_held_out, said), asked.text)
        return Drawn(held_out, {"messages": [*before, *_turns(asked)], "topics": asked.topics, "sentences": asked.sentences})

    def is_held_out(self, key_text: str) -> bool:
        """True for a text of `HELD_OUT`, in any case and with any punctuation, and for what `Identity` holds out."""
        plain = key(key_text)
        return plain in KEYS or (any(question in plain for question in _IDENTITY_QUESTIONS) and _IDENTITY.is_held_out(key_text))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 if the reply has the words of one of the topics that fit; about MegaContext, as many different facts as were asked for."""
        return float(any(_says(topic, reply, conversation["sentences"]) for topic in conversation["topics"]))

    def _before(self, rng: random.Random, topic: str) -> list[dict]:
        """An earlier turn, of small talk or of another task."""
        kind = rng.random()
        if topic == "more" or kind < 0.5:
            earlier = rng.choice(("about", "about", "about", "who", "what", "skills", "memory", "language"))
            if topic != "more":
                earlier = "about" if kind < 0.1 else rng.choice(("greeting", "who", "what", "skills", "other"))
            return _turns(_asked(rng, earlier))
        task = Arithmetic(digits=2, split="train", name="arithmetic:digits=2") if kind < 0.75 else Spelling("simple", split="train")
        return task[rng.randrange(1 << 30)]["messages"]


def key(text: str) -> str:
    """A text without case and punctuation."""
    return " ".join(re.findall(r"[\w+*/-]+", text.lower()))


def _turns(asked: Asked) -> list[dict]:
    topic = asked.topics[0]
    answer = " ".join(FACTS[: asked.sentences]) if topic == "about" else SAID[topic].answer
    return [{"role": "user", "content": asked.text}, {"role": "assistant", "content": answer}]


def _asked(rng: random.Random, topic: str) -> Asked:
    sentences = 0
    if topic == "about":
        text, sentences = about(rng)
    else:
        text = request(rng) if topic == "other" else phrased(rng, topic)
    if topic not in ("greeting", "thanks", "goodbye", "more", "sure", "noted"):
        # After a greeting a word or two would be part of it.
        if len(text.split()) > 2 and rng.random() < PREFIXED:
            before = rng.choice(BEFORE)
            text = before + (text if before.endswith(("! ", ": ")) else text[:1].lower() + text[1:])
        if rng.random() < SUFFIXED:
            text += rng.choice(AFTER)
    return Asked(typed(rng, text), (topic,), sentences)


def _says(topic: str, reply: str, sentences: int) -> bool:
    if topic == "about":
        said = _END.split(reply.strip())
        return len(said) == len({*said} & {*FACTS}) == (sentences or len(said))
    return all(word.lower() in reply.lower() for word in SAID[topic].must_say)


_IDENTITY_QUESTIONS = tuple(key(question) for topic in TOPICS.values() for question in topic.questions)
KEYS = frozenset(key(asked.text) for asked in HELD_OUT)
