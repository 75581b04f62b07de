"""Topics of small talk with many phrasings, made by rule, and what the assistant answers to each."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from nanochat.tasks.talk.identity import TOPICS, Topic
from nanochat.tasks.talk.itself import ITSELF
from nanochat.tasks.talk.slots import WORDS
from nanochat.tasks.words import any_word

OTHER = 'Sorry, I am too small for that. Try: What is MegaContext? What is 12 + 34? Spell "kade".'
# Topic → what it says and the words that make a reply right. A reply about facts is right by its number of sentences.
SAID: dict[str, Topic] = {
    "greeting": Topic(
        (
            "{hello}", "{hello}", "{hello} {you}", "{hello}, {you}", "{hello} {you}", "{hello} {hello}", "{hello}, {intro}",
            "{hello}. {intro}", "{hello} {you}, {intro}", "{hello}, {there}", "{hello} {you}, {there}", "{there}", "{intro}", "{hola}",
            "{hola}", "{hola} {you}", "{hola}, {intro}", "{hello} from {word}", "{hello}! {intro}", "{hello}, {intro}, {intro}",
            "{intro}, {hello}", "{oh} {hello}", "{oh}, {hello} {you}", "{hello} {you} {you}", "👋", "{hello} 👋",
        ),
        "Hello! I am MegaContext. What can I do for you?",
        ("Hello",),
    ),
    "mood": Topic(
        (
            "{how}", "{how}", "{hello}, {how}", "{hello} {you}, {how}", "{hello}! {how}", "And {how}", "{how} {today}",
            "{hello}, {how} {today}", "Are you {well}?", "Are you {well} {today}?", "Do you feel {well}?", "Is everything {fine}?",
            "Is all {fine}?", "All {fine}?", "Everything {fine}?", "Are things {fine}?", "Do you have feelings?", "You {well}?",
            "{hola}, {how}", "I hope you are {well}", "What is new?", "What is new {today}",
        ),
        "I am a program, so I am always fine. What can I do for you?",
        ("I am a program",),
    ),
    "thanks": Topic(
        (
            "{thanks}", "{thanks}", "{thanks} {much}", "{thanks} {much}", "{praise}", "{praise}, {thanks}", "{praise}, {thanks} {much}",
            "{thanks}, {praise}", "{thanks} {much}, {praise}", "{thanks}, {you}", "{thanks} for the {word}", "That was {praise}, {thanks}",
            "That is {praise}", "You are {praise}", "{praise} {praise}", "I appreciate it", "That helped", "That helped, {thanks}",
            "You helped me", "{merci}", "{merci}", "{merci} {you}", "{merci}, {praise}", "{thanks} {merci}", "{merci} {much}",
            "{thanks}, {helped}", "{helped}", "{helped}, {thanks}", "{thanks} {you}, {helped}", "{thanks} {you} {much}", "OK {thanks}",
            "{oh} {thanks}", "{oh}, {thanks} {much}", "{oh}, {praise}", "{praise}, {helped}", "{helped}. {praise}", "🙏", "👍",
            "{thanks} 🙏", "❤️ {thanks}", "{praise} 👏",
        ),
        "You are welcome.",
        ("You are welcome",),
    ),
    "goodbye": Topic(
        (
            "{bye}", "{bye}", "{bye} {you}", "{bye}, {you}", "{bye} {then}", "{bye} {then}", "OK, {bye}", "OK {bye}", "{bye}, {bye}",
            "Well, {bye} {then}", "I have to go", "That is all", "I am leaving", "We are done", "I have to go, {bye}", "That is all, {bye}",
            "Quit", "Exit", "{adieu}", "{adieu}", "{adieu} {you}", "{leaving}", "{leaving}", "{leaving}, {bye}", "{bye}, {leaving}",
            "{leaving} {then}", "{merci}, {adieu}", "{bye}, {wish}", "{bye} and {wish}", "{bye} {you}, {wish}", "{wish}", "{wish} {you}",
            "{wish}, {bye}", "{bye} {you}, {leaving}", "{oh} {bye}", "{oh}, {leaving}", "{leaving}. {wish}", "{adieu}, {wish}",
            "{bye} {bye}", "OK, {leaving}", "{thanks}, {leaving}", "{thanks}, {bye}",
        ),
        "Goodbye!",
        ("Goodbye",),
    ),
    **{
        topic: Topic((*TOPICS[topic].questions, *questions), TOPICS[topic].answer, TOPICS[topic].must_say)
        for topic, questions in ITSELF.items()
    },
    # Follow-ups: they come after a reply.
    "more": Topic(
        (
            "Tell me more.", "More", "Go on.", "Continue", "And?", "More details, please.", "What else?", "Can you say more?",
            "Keep going.", "Please go on.", "Is there more?", "I want to know more.", "Elaborate.", "Where can I read more?", "Say more.",
            "Anything else?", "I do not understand.", "What do you mean?", "Can you explain that again?", "Huh?", "I am lost.",
            "In other words?", "Give me an example.", "And then?", "So?", "What does that mean?", "Can you be more precise?", "How so?",
            "Such as?", "Next", "Tell me a bit more.", "Tell me more about that.", "More please", "More info", "More information, please.",
            "Even more", "Some more", "Any more?", "Anything more?", "Is that all?", "Is that everything?", "That's all?", "Go ahead.",
            "Go deeper.", "Expand on that.", "Expand.", "Explain further.", "Explain that.", "Explain better.", "Give me more.",
            "Give me more details.", "Details?", "Further?", "And what else?", "And more?", "And next?", "What's next?", "What comes next?",
            "What more?", "Then what?", "Keep talking.", "Keep it coming.", "Carry on.", "Proceed.", "Do continue.",
            "Please continue, {you}.", "Go on, {you}.", "One more.", "Another one.", "Again", "Say that again.", "Repeat that.",
            "Rephrase it.", "Say it differently.", "Simpler, please.", "What was that?", "Pardon?", "What?", "Come again?",
            "I didn't get it.", "I am confused.", "That is too short.", "This is unclear.", "I cannot follow.", "I want more.",
            "I'd like to hear more.", "Where can I learn more?", "Where is more?", "Can you go on?", "Can you tell me more?",
            "Could you elaborate?", "Could you give an example?", "For example?", "Like what?", "Meaning?", "As in?", "Interesting, go on.",
            "Nice, tell me more.", "OK, more.", "Ok and?", "Yes, go on.", "Hm, and then?",
        ),
        "There is more in the README and in the folder obsidian.",
        ("README",),
    ),
    "sure": Topic(
        (
            "Are you sure?", "Really?", "Is that right?", "That is wrong.", "Why?", "How do you know?", "I do not believe you.", "Wrong!",
            "Is that true?", "No", "That is not right.", "You are wrong.", "Check that.", "Are you certain?", "Hmm", "Can I trust you?",
            "Are you really sure?", "Are you 100% sure?", "Sure?", "For real?", "Seriously?", "Is it true?", "True?", "Honestly?", "No way",
            "Nope", "I doubt it.", "I doubt that.", "That can't be right.", "That is not true.", "That is false.", "False", "Not true",
            "Incorrect", "You're mistaken.", "You made a mistake.", "That is a lie.", "You are lying.", "Liar", "Prove it.",
            "Double-check that.", "Check again.", "Are you positive?", "Who says so?", "Says who?", "Says you", "Source?",
            "How can you know?", "How come?", "Why so?", "Why is that?", "But why?", "Are you kidding?", "You're joking.", "Can that be?",
            "Is this correct?", "Is that a fact?", "That's odd.", "That is strange.", "I don't think so.", "I don't buy it.",
        ),
        "I am small and can be wrong, so check what I say.",
        ("check what I say",),
    ),
    "noted": Topic(
        (
            "OK", "Okay", "I see", "Got it", "Understood", "All right", "Yes", "Yep", "Sure", "Sounds good", "Interesting", "Aha",
            "Right then", "Makes sense", "That makes sense", "I understand", "Oh", "Ah OK", "Fair enough", "Good to know", "Noted",
            "Never mind", "Oh well", "OK then", "Yeah", "Wow", "Ha ha", "Well", "No problem", "I know",
        ),
        "Good. What else can I do for you?",
        ("What else can I do",),
    ),
    "other": Topic((), OTHER, ("too small", "12 + 34", "Spell")),
}  # fmt: skip
FOLLOW_UPS = ("thanks", "more", "more", "sure", "goodbye", "skills", "noted")

COMMON_FIRST = 3.0  # 1: all words of a slot are drawn equally often; above it, those at the front of the list more often


def phrased(rng: random.Random, topic: str) -> str:
    """One of the phrasings of a topic, its slots filled."""
    return filled(rng.choice(SAID[topic].questions), lambda slot: _word(rng, slot))


def _word(rng: random.Random, slot: str) -> str:
    if slot == "word":
        return any_word(rng)
    words = WORDS[slot]
    word = filled(words[int(len(words) * rng.random() ** COMMON_FIRST)], lambda inner: _word(rng, inner))
    drawn_out = slot in ("hello", "bye", "thanks", "oh") and word[-1].isalpha() and rng.random() < 0.08
    return word + word[-1] * rng.randint(1, 4) if drawn_out else word


def filled(frame: str, word: Callable[[str], str]) -> str:
    """A frame with a `word` in place of each slot."""
    return re.sub(r"\{(\w+)\}", lambda slot: word(slot[1]), frame)
