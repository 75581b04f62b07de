"""Letters of words: spelling a word, and counting a letter in it, by the tool or letter by letter."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

from nanochat.tasks.grading import same_number
from nanochat.tasks.procedural import Drawn, Procedural, at_least, one_of
from nanochat.tasks.task import Conversation, dialogue, reference, with_tool
from nanochat.tasks.words import any_word, simple

# The word is in quotes, so that its tokens do not depend on its position.
SPELL = ('Spell "{word}".', 'How do you spell "{word}"?', 'Spell out the word "{word}".', 'What are the letters of "{word}"?')
COUNT = (
    'How many times does "{letter}" occur in "{word}"?',
    'How many "{letter}" are in "{word}"?',
    'Count the letter "{letter}" in "{word}".',
    'How often is "{letter}" in the word "{word}"?',
)
WORDS = ("any", "simple")
HOW = ("tool", "spelled", "both")


@dataclass
class Words(Procedural):
    """Choice of words, for the tasks about them."""

    words: str = "any"  # any: everyday and made-up ones; simple: made of syllables of two letters
    syllables: int = 2  # of a simple word

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("words", self.words, WORDS)
        at_least(1, syllables=self.syllables)

    def word(self, rng: random.Random) -> str:
        """Random word of the chosen kind."""
        return simple(rng, self.syllables) if self.words == "simple" else any_word(rng)


@dataclass
class Spelling(Words):
    """Spell a word: its letters with spaces between them."""

    label = "spelling"

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the word."""
        word = self.word(rng)
        return Drawn(word, dialogue(rng.choice(SPELL).format(word=word), " ".join(word)))


@dataclass
class SpellingBee(Words):
    """Count a letter in a word. The answer ends with the number."""

    how: str = "both"  # tool: the tool counts; spelled: spell the word and count along; both: either, at random

    label = "spellingbee"
    reply_tokens = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("how", self.how, HOW)

    def draw(self, rng: random.Random) -> Drawn:
        """See `Procedural`. The key is the word, whichever letter is counted."""
        word = self.word(rng)
        letter = rng.choice(word if rng.random() < 0.75 else string.ascii_lowercase).lower()
        question = rng.choice(COUNT).format(letter=letter, word=word)
        how = rng.choice(HOW[:2]) if self.how == "both" else self.how
        count = word.count(letter)
        if how == "spelled":
            return Drawn(word, dialogue(question, f"{_counted(word, letter)}: {count}"))
        # The parenthesis keeps the quote from joining the word as one token.
        return Drawn(word, dialogue(question, with_tool(f'("{word}").count("{letter}")', str(count), str(count))))

    def grade(self, conversation: Conversation, reply: str) -> float:
        """1 if the number after the last colon, or the whole reply, is the count."""
        return float(same_number(reply.rpartition(":")[2], reference(conversation).rpartition(":")[2]))


def _counted(word: str, letter: str) -> str:
    """Letters separated by spaces, the counted ones followed by their number: `s t r1 a w b e r2 r3 y`."""
    out, count = [], 0
    for character in word:
        count += character == letter
        out.append(f"{character}{count}" if character == letter else character)
    return " ".join(out)
