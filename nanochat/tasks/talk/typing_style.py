"""Style in which people type: lower case, contractions, abbreviations, words left out, typing errors, smileys."""

from __future__ import annotations

import random
import re
import string

_CONTRACTED = {
    "what is": "what's", "who is": "who's", "how is": "how's", "that is": "that's", "it is": "it's", "i am": "i'm", "you are": "you're",
    "do not": "don't", "is not": "isn't", "cannot": "can't", "there is": "there's", "i have": "i've", "i would": "i'd", "let us": "let's",
}  # fmt: skip
_SHORT = {
    "you": ("u", "ya", "yu"), "are": ("r",), "your": ("ur", "yr"), "please": ("pls", "plz"), "what": ("wat", "wut", "wot"),
    "what's": ("whats", "wats", "wots"), "who's": ("whos",), "how's": ("hows",), "that's": ("thats",), "i'm": ("im",), "don't": ("dont",),
    "can't": ("cant",), "you're": ("ur", "youre"), "for": ("4",), "about": ("abt", "bout"), "because": ("cuz",), "with": ("w",),
    "and": ("n", "&"), "tell": ("tel",), "the": ("da", "th"), "thanks": ("thx", "thnx", "tnx", "thks"), "good": ("gd", "gud"),
    "people": ("ppl",), "today": ("2day", "tday"), "tomorrow": ("tmrw",), "something": ("smth",), "know": ("kno",), "have": ("hav",),
    "give": ("gimme", "giv"), "doing": ("doin",), "going": ("goin",), "okay": ("k",), "sentences": ("sentnces",), "see": ("c",),
}  # fmt: skip
_LONG = {"want to": "wanna", "going to": "gonna", "have to": "gotta", "give me": "gimme", "do not know": "dunno", "let me": "lemme"}
_DROPPED = (
    "are you ",
    "do you ",
    "is this ",
    "is it ",
    "can you ",
    "did you ",
    "have you ",
    "what is ",
    "i am ",
    "i ",
    "it is ",
    "that is ",
)
_SMILEYS = (" :)", " :-)", " ;)", " :D", " 😊", " 🙂", " 👍", " ❤️", " lol", " haha", " xD", " ^^", " !!1", " <3", " 👋", " 🙏")
_ENDINGS = ("!", "!", "!", ".", ".", ".", "!!", "...", "?", "??", "!!!", " !")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEAR = {letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, letter in enumerate(row)}


def typed(rng: random.Random, text: str) -> str:
    """The text as people type it."""
    if rng.random() < 0.3:
        text = _replaced(text, _CONTRACTED)
    if rng.random() < 0.05:
        text = next((text[len(start) :] for start in _DROPPED if text.lower().startswith(start)), text)
    if rng.random() < 0.12:
        text = _shortened(rng, _replaced(text, _LONG))
    if rng.random() < 0.04:
        text = misspelt(rng, text)
    kind = rng.random()
    if kind < 0.5:
        text = text.lower()
    elif kind < 0.515:
        text = text.upper()
    elif kind < 0.525:
        text = text.title()
    if rng.random() < 0.04:
        return text.rstrip("?.!") + rng.choice(_SMILEYS)
    if rng.random() < 0.25:
        return text.rstrip("?.!")
    return text + rng.choice(_ENDINGS) if text[-1:].isalpha() and rng.random() < 0.2 else text


def misspelt(rng: random.Random, text: str) -> str:
    """The text with one letter too many, too few, exchanged or wrong in a word of three letters or more, if there is one."""
    places = [match.span() for match in re.finditer(r"[A-Za-z]{3,}", text)]
    if not places:
        return text
    begin, end = rng.choice(places)
    at = rng.randrange(begin, end - 1)
    match rng.randrange(4):
        case 0:
            return text[:at] + text[at] + text[at:]
        case 1:
            return text[: at + 1] + text[at + 2 :]
        case 2:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    wrong = rng.choice(_NEAR.get(text[at + 1].lower(), string.ascii_lowercase))
    return text[: at + 1] + wrong + text[at + 2 :]


def _replaced(text: str, words: dict[str, str]) -> str:
    """The text with all `words` replaced, in the case they begin with."""

    def other(match: re.Match[str]) -> str:
        new = words[match[0].lower()]
        return new.capitalize() if match[0][0].isupper() else new

    return re.sub(rf"\b(?:{'|'.join(words)})\b", other, text, flags=re.IGNORECASE)


def _shortened(rng: random.Random, text: str) -> str:
    """The text with a short form of some of the words that have one."""
    words = text.split(" ")
    for i, word in enumerate(words):
        plain = word.rstrip("?.!,")
        if plain.lower() in _SHORT and rng.random() < 0.6:
            words[i] = rng.choice(_SHORT[plain.lower()]) + word[len(plain) :]
    return " ".join(words)
