"""Words to spell: everyday English ones, and made-up ones that can be pronounced."""

from __future__ import annotations

import random

COMMON = tuple(
    """
    apple banana strawberry cherry orange lemon peach grape melon tomato potato carrot onion pepper garlic butter cheese bread honey
    sugar coffee dinner kitchen window mirror pillow blanket cabinet drawer hammer ladder bucket button pocket jacket sweater trousers
    mother father sister brother daughter cousin neighbour teacher student doctor farmer painter sailor soldier builder engineer
    monkey rabbit turtle parrot pigeon giraffe elephant kangaroo butterfly mosquito spider salmon chicken donkey buffalo squirrel
    river valley mountain forest meadow desert island harbour village castle bridge tunnel station airport highway railway
    yellow purple silver golden scarlet little narrow hollow gentle bitter clever simple common sudden hidden broken frozen
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March August September October November December
    summer winter autumn spring morning evening midnight weather thunder lightning rainbow shadow sunrise planet galaxy
    letter number sentence paragraph chapter library journal dictionary alphabet grammar syllable answer question mystery
    success address balloon committee necessary occurrence embarrass accommodation possession millennium mississippi tennessee
    banjo guitar trumpet violin drummer orchestra melody rhythm picture gallery theatre museum stadium football hockey tennis
    computer keyboard program compiler variable function pointer network memory context gist token model layer gradient
    happen follow gather wander listen whisper remember forget believe receive discover explore imagine travel wonder
    beautiful wonderful terrible impossible remarkable different important interesting dangerous delicious ordinary
    """.lower().split()
)
ONSETS = "b c d f g h k l m n p r s t v w z br cl dr fl gr pl pr sh sl sp st th tr".split()
VOWELS = "a e i o u ai ea ee oo ou".split()
CODAS = ("", "", "", "l", "m", "n", "r", "s", "t", "ll", "nd", "rt", "ss", "st")
SIMPLE_ONSETS = "b d f g k l m n p r s t v z".split()
SIMPLE_VOWELS = "a e i o u".split()


def made_up(rng: random.Random, syllables: int) -> str:
    """Pronounceable word of `syllables` syllables."""
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if last else "") for last in _last(syllables))


def simple(rng: random.Random, syllables: int) -> str:
    """Word of `syllables` syllables of one consonant and one vowel."""
    return "".join(rng.choice(SIMPLE_ONSETS) + rng.choice(SIMPLE_VOWELS) for _ in range(syllables))


def any_word(rng: random.Random) -> str:
    """Everyday word, or a made-up one of one to four syllables."""
    return rng.choice(COMMON) if rng.random() < 0.5 else made_up(rng, rng.randint(1, 4))


def _last(syllables: int) -> list[bool]:
    return [False] * (syllables - 1) + [True]
