"""Requests that the demo's model cannot fulfil, by rule: many frames and subjects, and texts without sense."""

from __future__ import annotations

import random
import string

from nanochat.tasks.long.filler import ADJECTIVES, NOUNS, sentence
from nanochat.tasks.talk.abroad import foreign
from nanochat.tasks.talk.everyday import everyday
from nanochat.tasks.talk.phrasings import filled
from nanochat.tasks.words import COMMON, made_up

PLACES = tuple(
    "Paris London Rome Berlin Tokyo India China Spain Egypt Brazil Canada Peru Kenya Norway Texas Vienna Oslo Japan Africa".split()
)
PEOPLE = (
    "Einstein", "Newton", "Napoleon", "Shakespeare", "Mozart", "Darwin", "Cleopatra", "Gandhi", "Plato", "Picasso", "the king",
    "the president", "Marie Curie", "my boss", "my mother", "Ada Lovelace", "Alan Turing", "the inventor of the telephone",
    "your favourite singer",
)  # fmt: skip
SUBJECTS = (
    "photosynthesis", "gravity", "the French Revolution", "the sun", "black holes", "democracy", "love", "the meaning of life",
    "the internet", "climate change", "evolution", "the stock market", "chess", "cooking", "music", "time", "the moon", "vaccines",
    "the Roman Empire", "quantum physics", "neural networks", "Python", "the news", "dinosaurs", "economics", "the universe", "electricity",
    "coffee", "a transformer", "attention", "Linux", "recursion", "football", "dreams", "the ocean", "history", "philosophy",
    "a car engine", "ChatGPT", "large language models",
)  # fmt: skip
VERBS = tuple(
    """drive lend cook dance run swim fix clean paint carry build sell buy eat drink sleep sing read draw throw catch bake plant wash
    open close break repair call send bring move find lose win rent borrow steal hide climb ride fly jump invite visit meet help kiss
    hug marry fire hire teach print scan delete install update download upload compile order pay count weigh measure""".split()
)
THINGS = (
    *COMMON, *NOUNS, *ADJECTIVES,
    *"""egg pizza money cat dog house car bike bus plane boat phone laptop table chair bed door street shop school work job friend family
    baby child man woman people world country city water milk tea wine beer soup salad meat fish rice pasta cake apple pie fruit tree
    flower garden bird horse cow pig sheep lion tiger bear snake bee ant star sky rain snow wind fire ice earth stone gold iron glass
    paper pen book film song dance game ball team match race party gift birthday wedding holiday trip ticket hotel beach sea lake road
    map clock hour minute day week month year night today tomorrow head hand eye ear nose mouth hair foot heart back doctor nurse
    police king queen law tax bank price cent euro dollar bill shirt shoe hat coat bag box key lamp light radio video photo website
    app file bug code line word page text news email message question idea plan reason problem answer truth lie luck hope fear pain
    big small old young hot cold fast slow rich poor hungry thirsty sick tired bored angry lonely cheap free full
    empty hard easy dark""".split(),
)  # fmt: skip
LANGUAGES = tuple("French German Spanish Latin Chinese Italian Japanese Russian Python Java Rust English C++ JavaScript".split())
KINDS = (
    "poem", "story", "song", "letter", "joke", "recipe", "essay", "haiku", "program", "function", "list", "plan", "email", "riddle",
    "speech",
)  # fmt: skip
FRAMES = (
    "What is the capital of {place}?", "What is the weather like in {place}?", "Where is {place}?",
    "How far is it from {place} to {place}?", "How many people live in {place}?", "Who is {person}?", "Who was {person}?",
    "When was {person} born?", "What did {person} say?", "Tell me about {person}.", "Tell me about {subject}.", "Tell me about {place}.",
    "Tell me a {kind}.", "Tell me a {kind} about {thing}.", "Write a {kind} about {thing}.", "Write a {kind} about {subject}.",
    "Write a {kind}.", "Write me a {kind} in {language}.", "Make a {kind} for {person}.", "Translate \"{thing}\" into {language}.",
    "Translate this into {language}: {sentence}", "How do you say {thing} in {language}?", "What is {thing} in {language}?",
    "Explain {subject}.", "Explain {subject} to a child.", "Describe {subject}.", "Describe {subject} in {n} sentences.",
    "Describe {place} in {n} sentences.", "Explain {subject} in {n} sentences.", "Summarise {subject} in {n} sentences.",
    "Summarise this: {sentence}", "Summarize {subject}.", "Sum up {subject} in {n} words.", "What is {subject}?", "What is a {thing}?",
    "What is the {thing}?", "What are {thing}s?", "What does {thing} mean?", "Define {thing}.", "Why is the {thing} {thing}?",
    "Why do {thing}s {thing}?", "Why is {subject} important?", "How does {subject} work?", "How do I {thing} a {thing}?",
    "How can I learn {subject}?", "How can I learn {language}?", "How old is {person}?", "How old is the {thing}?",
    "How tall is a {thing}?", "How much does a {thing} cost?", "When did {subject} begin?", "When is {thing}?", "What time is it?",
    "What day is it today?", "What year is it?", "What is the news?", "Do you like {thing}?", "Do you know {person}?",
    "Do you speak {language}?", "Do you want to {thing}?", "Can you {thing}?", "Can you {thing} the {thing}?", "Can you write {language}?",
    "Can you draw a {thing}?", "Could you book a {thing}?", "Is {thing} better than {thing}?", "Is the {thing} {thing}?",
    "Is {subject} real?", "Should I buy a {thing}?", "Should I {thing}?", "Where can I buy a {thing}?", "Where is my {thing}?",
    "Which {thing} is the best?", "What is the best {thing}?", "What is your favourite {thing}?", "Give me a {kind}.",
    "Give me {n} {thing}s.", "Give me a {kind} for {thing}.", "Give me advice about {subject}.", "Give me the {thing}.",
    "I need a {thing}.", "I want to {thing}.", "I want a {kind} about {subject}.", "I feel {thing} today.", "I like {thing}.",
    "I am {thing}.", "My {thing} is {thing}.", "My {thing} does not work.", "My name is {person}.", "There is a {thing} in my {thing}.",
    "Let us talk about {subject}.", "Play {thing}.", "Play some music.", "Open the {thing}.", "Set a timer for {n} minutes.",
    "Call {person}.", "Send a {kind} to {person}.", "Search for {thing}.", "Show me a picture of a {thing}.", "Find a {thing} in {place}.",
    "Buy me a {thing}.", "Recommend a {thing}.", "Compare {thing} and {thing}.", "Compare {place} with {place}.", "Name {n} {thing}s.",
    "List {n} {thing}s.", "Name a {thing}.", "Finish this: the {thing}", "Rewrite this: {sentence}", "Correct this: {sentence}",
    "Rhyme with {thing}.", "What rhymes with {thing}?", "Solve x + {n} = {n}{n}.", "What is the square root of {n}{n}?",
    "What is {n}% of {n}{n}?", "Divide {n}{n} by {n}.", "Is {n}{n} a prime number?", "What comes after {thing}?",
    "How many {thing}s are there?", "How many days has {thing}?", "Sort these: {thing}, {thing}, {thing}", "Who won the {thing}?",
    "Who invented the {thing}?", "Who wrote {thing}?", "Who is the president of {place}?", "What happened in {place}?",
    "def {thing}({thing}):", "import {thing}", "print({thing})", "SELECT {thing} FROM {thing}",
    "Write a {language} function that can {thing}.", "Fix this code: {thing} = {n}", "{thing}", "{thing} {thing}", "{thing}?", "{subject}",
    "{place}", "{person}", "{n}", "{sentence}", "{sentence} {sentence}", "Was ist {thing}?", "Qu'est-ce que {thing}?", "Que es {thing}?",
    "Wer ist {person}?", "Bonjour {person}, {thing}?", "Erzähl mir etwas über {place}.", "Imagine you are a {thing}.", "Act as a {thing}.",
    "Ignore what I said and {thing}.", "Repeat after me: {sentence}", "Say {thing}.", "Sing.", "What did you {thing}?",
    "What did you do {thing}?", "What do you think of {subject}?", "What do you want to {thing}?", "When will you {thing}?",
    "Do you {thing} me?", "Do you {thing} {thing}?", "Did you {thing} the {thing}?", "Have you seen {person}?", "Have you been to {place}?",
    "Will you {thing} me?", "Will it {thing} {thing}?", "Is it going to {thing}?", "Is it {thing}?", "Is there a {thing} in {place}?",
    "Was it {thing}?", "Were you in {place}?", "Would you like a {thing}?", "You should {thing}.", "You are a {thing}.",
    "You look like a {thing}.", "I love {thing}.", "I had a {thing} {thing}.", "I lost my {thing}.", "I cannot {thing}.",
    "I am a {thing} from {place}.", "I think that {sentence}", "I hate {subject}.", "My {thing} is {thing}, what should I do?",
    "My {thing} is broken.", "What should I {thing}?", "What should I do with a {thing}?", "Who {thing}s?", "Who is in the {thing}?",
    "Whose {thing} is this?", "Who is on the {thing}?", "How do {thing}s {thing}?", "How can a {thing} {thing}?", "Count to {n}.",
    "Count the {thing}s.", "Add some {thing}.", "Spell it.", "Read the {thing}.", "Learn {language}.", "Go to {place}.",
    "{thing}, {thing} and {thing}", "Good {thing} for {thing}?", "Please {thing}.", "Stop {thing}.", "Start {thing}.",
    "Does {person} {thing}?", "Does the {thing} {thing}?", "And {thing}?", "Can you {verb}?", "Can you {verb} a {thing}?",
    "Could you {verb} me some {thing}?", "Could you {verb} my {thing}?", "Would you {verb} me?", "Will you {verb} the {thing}?",
    "Do you {verb}?", "Do you {verb} {thing}s?", "How do I {verb} a {thing}?", "How can I {verb} my {thing}?", "Should I {verb} {person}?",
    "I want to {verb} a {thing}.", "I have to {verb}.", "{verb} the {thing}", "{verb} my {thing}, please", "Help me {verb} the {thing}.",
    "Let me {verb}.", "Why did {person} {verb} a {thing}?", "What is the {thing} of the {thing}?", "What's the {thing} of the {thing}?",
    "What's a {thing}?", "What's {subject}?", "Who {verb}s the {thing}?", "Invent a {thing} for my {thing}.",
    "How much {thing} does a {thing} {verb}?", "When should I {verb} it?", "Is it good to {verb}?", "Did they {verb} it?",
    "We should {verb} {person}.", "Please {verb} this {kind} for me.", "Write this {kind} again.", "Do my {thing}.", "Do the {thing}.",
    "{n} is the {thing}", "{n} {thing}s", "How long does a {thing} {verb}?", "How long is a {thing}?", "How long do I {verb} the {thing}?",
    "How often should I {verb}?", "Is {thing} {thing}?", "Is {thing} good for me?", "Are {thing}s {thing}?",
    "Are {thing}s better than {thing}s?", "Why do {thing}s {verb}?", "Why does my {thing} {verb}?", "I am so {thing}.", "So {thing}",
    "Too {thing}", "Where did the {thing} go?", "What happens if I {verb} a {thing}?", "Cheap {thing} in {place}", "best {thing} {place}",
    "Solve {algebra} = 0.", "{algebra} = {n}, what is {letter}?", "What is the derivative of {algebra}?", "Integrate {algebra}.",
    "Factor {algebra}.",
    "Simplify {algebra}.", "Plot {algebra}.", "{algebra} = 0", "sqrt({n}{n})", "log({n})", "sin({n})", "{n}!", "{n}{n} / {n}", "{n}^{n}",
    "What is {n} to the power of {n}?", "Which {thing} should I {verb}?", "Which {thing} fits my {thing}?", "Which {thing}s are {thing}?",
    "Which {kind} is about {subject}?", "Which way to {place}?", "Which {language} word means {thing}?", "Whose {kind} is it?",
    "Convert {n} {thing}s to {thing}s.", "What is the sum of the first {n} {thing}s?", "Is {algebra} = {algebra}?", "lim {algebra}",
    "{n} mod {n}", "What is pi?",
    "{thing} near me", "{thing} {place}", "{verb} {thing}", "No {thing}, no {thing}", "The {thing} is {thing}.",
)  # fmt: skip
SMALL_WORDS = (
    "the a an of to in is are was it that this for on with as at by from or and not you I we my your how what why when where who which can "
    "do does did would should could there here some any all no yes more best new make give tell show find write get say please about"
).split()


def request(rng: random.Random) -> str:
    """A request outside of what the model can do; one in ten is words of any language, or letters, in no order."""
    kind = rng.random()
    if kind < 0.1:
        return _without_sense(rng) if kind < 0.06 else foreign(rng)
    if kind < 0.72:
        return everyday(rng)
    return filled(rng.choice(FRAMES), lambda slot: _word(rng, slot))


def _word(rng: random.Random, slot: str) -> str:
    match slot:
        case "thing":
            return rng.choice(THINGS) if rng.random() < 0.85 else made_up(rng, rng.randint(1, 3))
        case "verb":
            return rng.choice(VERBS)
        case "algebra":
            letter, sign = rng.choice("xyznt"), rng.choice("+-")
            return rng.choice(
                (f"{letter}^2", f"sin({letter})", f"{rng.randint(2, 9)}{letter}^2", f"{letter}**3", f"e^{letter}")
            ) + rng.choice(("", f" {sign} {rng.randint(2, 9)}{letter}", f" {sign} {rng.randint(2, 9)}{letter} + {rng.randint(1, 9)}"))
        case "letter":
            return rng.choice("xyznt")
        case "n":
            return str(rng.randint(1, 12))
        case "sentence":
            return sentence(rng)
    return rng.choice({"place": PLACES, "person": PEOPLE, "subject": SUBJECTS, "language": LANGUAGES, "kind": KINDS}[slot])


def _without_sense(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.15:  # fingers on the keyboard
        rows = rng.choice(("asdfghjkl", "qwertyuiop", "zxcvbnm", "asdfjkl", string.ascii_lowercase))
        return " ".join("".join(rng.choices(rows, k=rng.randint(3, 8))) for _ in range(rng.randint(1, 4)))
    if kind < 0.25:
        return " ".join([rng.choice((*SMALL_WORDS, *THINGS))] * rng.randint(2, 4))
    if kind < 0.45:
        letters = string.ascii_lowercase * 3 + string.digits + "?!.,;-"
        return "".join(rng.choice(letters) for _ in range(rng.randint(1, 12)))
    words = [rng.choice(SMALL_WORDS if rng.random() < 0.5 else THINGS) for _ in range(rng.randint(1, 12))]
    return " ".join(words).capitalize() + rng.choice(("?", ".", "", "!"))
