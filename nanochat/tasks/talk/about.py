"""Requests to say what MegaContext is, in so many sentences, and the facts that answer them."""

from __future__ import annotations

import random

# What MegaContext is, in as many sentences as are asked for.
FACTS = (
    "MegaContext is a small language model with a long memory.", "It keeps the whole history as a tree of gists.",
    "A gist stands for many tokens.", "The model attends to a small Working Context of gists and tokens.",
    "Where detail is needed, a gist is expanded into its tokens.",
)  # fmt: skip
VERBS = (
    "Describe", "Explain", "Summarise", "Summarize", "Sum up", "Outline", "Define", "Introduce", "Present", "Tell me about", "Talk about",
    "Give me a summary of", "Give a description of", "Give me an overview of", "Write about", "Say something about", "Characterise",
    "Give an explanation of", "Write a summary of", "Teach me about", "Help me understand", "Write a description of", "Tell us about",
)  # fmt: skip
QUESTIONS = (
    "What is", "What's", "What does one need to know about", "What can you say about", "What do you know about", "How would you describe",
)  # fmt: skip
NAMES = (
    *("MegaContext",) * 8, *("megacontext",) * 3, "a MegaContext", "the MegaContext", "this project", "this framework", "Mega Context",
    "mega context", "mega-context", "MegaContext the model", "this MegaContext thing",
)  # fmt: skip
ASKING = (
    "", "", "", "Please ", "Can you ", "Could you ", "Would you ", "I want you to ", "I would like you to ", "Now ", "Could you please ",
)  # fmt: skip
AUDIENCES = (
    " to me", " for me", " to a child", " to my friend", " for my boss", " to somebody", " for the report", " for a talk", " like I am ten",
)  # fmt: skip
ADJECTIVES = (*("",) * 9, "short ", "simple ", "clear ", "long ", "plain ", "full ")
NUMBERS = ("one", "two", "three", "four", "five")
BRIEFLY = ("briefly", "in short", "in a nutshell", "in a sentence", "with a single sentence", "in one line", "shortly", "in brief")
AT_LENGTH = ("in detail", "at length", "in full", "thoroughly", "with all details", "as fully as you can", "in depth")
# Requests that begin with the number of sentences, or with the name.
COUNTED = (
    "{n} on {name}", "{n} about {name}", "{n} about {name}, please", "{n} that describe {name}", "{n}: what is {name}?",
    "{n} for my essay on {name}", "{n} on what {name} is", "{n} of text about {name}", "{name} in {n}", "{name} in {n}, please",
    "{name}, {n}", "{name}? {n}, please.", "{name} summed up in {n}", "{name} for beginners in {n}", "{name}, but in {n}",
    "Give me {n} on {name}.", "Give us {n} about {name}.", "Write {n} about {name}.", "Write me {n} on {name}.", "I need {n} about {name}.",
    "I want {n} on {name}.", "I'd like {n} about {name}.", "My boss wants {n} on {name}.", "What is {name}? In {n}.",
    "What is {name}? Use {n}.", "What is {name} in {n}?", "What does {name} do, in {n}?", "In {n}: what is {name}?",
    "In {n}, what is {name}?", "In {n}, how does {name} work?", "Tell me in {n} what {name} is.", "Say in {n} what {name} does.",
    "Describe in {n} how {name} works.", "Explain what {name} is in {n}.", "Describe what {name} does in {n}.",
    "Tell my class what {name} is in {n}.", "Use {n} to tell me about {name}.", "Use {n} to explain {name}.", "With {n}, explain {name}.",
    "Put {name} into {n}.", "Boil {name} down to {n}.", "Squeeze {name} into {n}.", "Can I get {name} in {n}?", "May I have {n} on {name}?",
    "Could I get {n} about {name}?", "Can you give me {n} on {name}?", "Could you write {n} about {name}?",
    "Can you tell me in {n} what {name} is?", "A summary of {name} in {n}", "A description of {name} in {n}", "An overview of {name}, {n}",
    "A summary of {name} of {n}", "Only {n}: {name}",
)  # fmt: skip
HYPHENATED = (
    "A {n}-sentence summary of {name}", "Write a {n}-sentence description of {name}.", "I need a {n}-sentence overview of {name}.",
    "{name}: a {n}-sentence explanation", "A {n} sentence text about {name}", "Make a {n}-sentence introduction to {name}.",
)  # fmt: skip
# Requests without a number of sentences.
BARE = (
    "{name}", "{name}?", "{name} please", "{name} explained", "{name} for dummies", "{name} in simple words", "{name} in a few words",
    "How does {name} work?", "How do I use {name}?", "Why should I use {name}?", "What does {name} do?", "What is {name} for?",
    "What is {name} good for?", "What is {name} about?", "What is the point of {name}?", "What is the idea behind {name}?",
    "What's special about {name}?", "What's new in {name}?", "What is this {name} everybody talks about?", "Who needs {name}?",
    "Is {name} useful?", "Is {name} any good?", "Ever heard of {name}?", "Have you heard of {name}?", "Do you know {name}?",
    "Do you know what {name} is?", "Info on {name}", "Some info about {name}, please", "Meaning of {name}", "Definition of {name}",
    "Define: {name}", "The basics of {name}", "Intro to {name}", "The short version of {name}", "I read about {name}, what is it?",
    "I don't understand {name}.", "I don't get {name}.", "I want to know what {name} is.", "I want to understand {name}.",
    "Can you tell me what {name} is?", "Can you explain what {name} is?", "Could you explain {name}?", "Remind me what {name} is.",
    "Explain what {name} is.", "Explain what {name} does.", "Explain how {name} works.", "Explain the idea of {name}.",
    "Tell me how {name} works.", "Tell me everything about {name}.", "wtf is {name}", "what the heck is {name}", "so what's {name}",
    "and {name}?", "What about {name}?", "{name}: what is it?", "{name}, what's that?",
)  # fmt: skip
MOST_ASKED = 10  # sentences; more than there are facts get all of them


def about(rng: random.Random) -> tuple[str, int]:
    """Request to say what MegaContext is, and the number of sentences that it asks for; two, if it asks for none."""
    if rng.random() < 0.15:  # as in the documentation
        count = _count(rng)
        return f"{rng.choice(VERBS[:3])} MegaContext in {count} sentence{'s' * (count > 1)}.", count
    kind = rng.random()
    if kind < 0.3:
        return _counted(rng)
    if kind < 0.36:
        text = rng.choice(BARE).format(name=rng.choice(NAMES))
        return text[0].upper() + text[1:], 2
    asking = rng.choice(ASKING)
    verb = rng.choice(VERBS if asking or rng.random() < 0.8 else QUESTIONS)
    asked = f"{asking}{verb[0].lower() + verb[1:] if asking else verb} {rng.choice(NAMES)}"
    end = "?" if verb in QUESTIONS or asking.startswith(("Can", "Could", "Would")) else "."
    if rng.random() < 0.2 and verb not in QUESTIONS and not {"me", "us"} & {*verb.split()}:
        asked += rng.choice(AUDIENCES)
    how, sentences = _length(rng)
    if how and verb.endswith(" about") and rng.random() < 0.2:
        return asked.replace(" about ", f" {how} about ", 1) + end, sentences
    if how and rng.random() < 0.25:
        asked = asked if asked.startswith("I ") else asked[0].lower() + asked[1:]
        return f"{how[0].upper()}{how[1:]}, {asked}{end}", sentences
    return f"{asked}{rng.choice((' ', ' ', ', ')) if how else ''}{how}{end}", sentences


def _counted(rng: random.Random) -> tuple[str, int]:
    """Request that names the number of sentences first, or after the name."""
    count, name = _count(rng), rng.choice(NAMES)
    if rng.random() < 0.1:
        text = rng.choice(HYPHENATED).format(n=_number(rng, count), name=name)
    else:
        exactly = rng.choice(("", "", "", "", "", "", "exactly ", "only ", "just "))
        number = f"{exactly}{_number(rng, count)} {rng.choice(ADJECTIVES)}sentence{'s' * (count > 1)}"
        text = rng.choice(COUNTED).format(n=number, name=name)
    return text[0].upper() + text[1:], count


def _number(rng: random.Random, count: int) -> str:
    """Number in letters or digits."""
    return NUMBERS[count - 1] if count <= len(NUMBERS) and rng.random() < 0.4 else str(count)


def _length(rng: random.Random) -> tuple[str, int]:
    kind = rng.random()
    if kind < 0.15:
        return "", 2
    if kind < 0.22:
        return rng.choice(BRIEFLY), 1
    if kind < 0.27:
        return rng.choice(AT_LENGTH), len(FACTS)
    count = _count(rng) if kind < 0.95 else rng.randint(len(FACTS) + 1, MOST_ASKED)
    number = _number(rng, count)
    ending = "" if count == 1 else "s"
    form = rng.choice(("in", "in", "in", "using", "with", "in exactly", "in just", "in only", "in about")) + " {n} {adjective}sentence{s}"
    return form.format(n=number, s=ending, adjective=rng.choice(ADJECTIVES)), min(count, len(FACTS))


def _count(rng: random.Random) -> int:
    """Sentences that are asked for, seldom one: it is easy to count."""
    return rng.choices(range(1, len(FACTS) + 1), (2, 3, 4, 4, 3))[0]
