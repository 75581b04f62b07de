"""Filler sentences, keys and values of long prompts.

`noise` is the filler of landmark-attention's passkey prompt and of RULER, verbatim. RULER's other haystack is essays by Paul
Graham, which cannot be shipped; `essay` generates sentences in their place. They are simpler than written English and repeat after
a few thousand, so a fact stands out more than in real prose: compare results with each other, and only roughly with published ones.
"""

from __future__ import annotations

import random
import uuid
from itertools import product

from nanochat.tasks.words import COMMON, made_up

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NOISE_WORDS = NOISE.split(" ")

WHO = "The old sailor|A young painter|My neighbour|The quiet farmer|A tall student|The baker|Our teacher|The captain".split("|")
DID = "walked along|looked at|sat beside|talked about|drew|remembered|waited near|sang about".split("|")
WHAT = "the river|the empty market|a wooden bridge|the harbour|the old castle|a narrow street|the garden|the railway station".split("|")
WHEN = "in the morning|before lunch|after the rain|on a cold evening|at midnight|during the summer|every week|for an hour".split("|")
OPINION = "Most people think|It is easy to forget|I once believed|Nobody told me|You soon find|We rarely notice|It helps to know".split("|")
THAT = "good work takes patience|small habits last longest|a plan is only a guess|questions outlive answers|doubt is cheap".split("|")
SO = "and so they start too late|but it rarely matters|which is why we keep trying|and the rest follows|though few would say so".split("|")

NOUNS = tuple(
    """
    arm ball band bank bath bear bed bell bird boat body book bowl box boy bread bus cake camp car card cat chair church city clock
    cloud coat cook corn cow cup desk dog door dress drum duck ear earth egg eye farm field finger fire fish floor flower foot fruit
    game gate gift girl glass gold grass hair hall hand hat head heart hill home horse house ice iron island key king knife lake lamp
    land leaf leg letter line lion map meat milk mill mind moon mouse mouth music nail name neck nest night nose ocean oil page paint
    paper park path pen piano plane plant plate pond queen radio rain ring river road rock roof room rope rose salt sand school sea
    seat seed ship shirt shoe shop silk sink skin sky snow soap sock song soup star stone storm sun table tail tea tent tie tooth town
    toy train tree truck valley village voice wall watch water wave wheel wind wing winter wolf wood wool yard
    """.split()
)
ADJECTIVES = tuple(
    """
    able amber ancient angry awake bare basic bent big bitter black bold brave brief bright broad broken brown busy calm careful cheap
    clean clear clever cold common cool curious curly damp dark deep dry dull dusty eager early easy empty even fair famous fast fat
    final fine firm flat fond free fresh full funny gentle glad grand gray great green happy hard heavy high hollow honest hot huge
    hungry idle jolly keen kind large late lazy light little local lonely long loose loud low lucky mild modern narrow neat new nice
    noisy odd old open orange pale plain polite poor pretty proud pure purple quick quiet rare raw ready red rich ripe rough round
    royal rude sad safe scarlet sharp short shy silent silver simple slim slow small smart smooth soft solid sour spare square steady
    steep stiff still strange strict strong sudden sunny sweet swift tall tame tender thick thin tidy tight tiny tired true useful vast
    violet warm weak wet white whole wide wild wise yellow young
    """.split()
)
PAIRS = len(ADJECTIVES) * len(NOUNS)
WORDS = tuple(sorted({*NOUNS, *ADJECTIVES, *COMMON}))


def noise(words: int) -> list[str]:
    """`words` words of `NOISE`, repeated; each line is one repetition, and the last may be cut."""
    rounds, rest = divmod(words, len(NOISE_WORDS))
    return [NOISE] * rounds + ([" ".join(NOISE_WORDS[:rest])] if rest else [])


def sentence(rng: random.Random) -> str:
    """Random sentence: who, did, what, when."""
    return f"{rng.choice(WHO)} {rng.choice(DID)} {rng.choice(WHAT)} {rng.choice(WHEN)}."


def essay(rng: random.Random, words: int) -> list[str]:
    """Sentences of `words` words in total; the last may be cut. A longer essay of the same `rng` begins with a shorter one."""
    sentences = []
    while words > 0:
        said = sentence(rng) if rng.random() < 0.7 else f"{rng.choice(OPINION)} that {rng.choice(THAT)}, {rng.choice(SO)}."
        parts = said.split(" ")
        sentences.append(said if len(parts) <= words else " ".join(parts[:words]))
        words -= len(parts)
    return sentences


def number(rng: random.Random, digits: int) -> str:
    """Number of `digits` digits; the first is not 0."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def pair(rng: random.Random) -> str:
    """One of `PAIRS` names: an adjective and a noun, as in `quiet-lamp`."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def uuid4(rng: random.Random, digits: int | None = None) -> str:
    """UUID of version 4, or its first hexadecimal digits, at most eight."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))[:digits]


def different_words(rng: random.Random, count: int, pool: tuple[str, ...], taken: set[str]) -> list[str]:
    """`count` different words, none of `taken`: those of `pool` in random order, then made-up ones."""
    words = [word for word in rng.sample(pool, len(pool)) if word not in taken][:count]
    known = {*pool, *taken}
    while len(words) < count:
        word = made_up(rng, rng.randint(2, 4))
        if word not in known:
            known.add(word)
            words.append(word)
    return words


def coded_words(rng: random.Random, count: int, letters: int) -> list[str]:
    """`count` different strings of random small letters."""
    return _codes(rng, count, letters, "abcdefghijklmnopqrstuvwxyz")


def variable_names(rng: random.Random, count: int, letters: int) -> list[str]:
    """`count` different strings of random capital letters."""
    return _codes(rng, count, letters, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _codes(rng: random.Random, count: int, letters: int, alphabet: str) -> list[str]:
    if 2 * count > len(alphabet) ** letters:
        every = ["".join(code) for code in product(alphabet, repeat=letters)]
        return rng.sample(every, count)
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes["".join(rng.choices(alphabet, k=letters))] = None
    return list(codes)
