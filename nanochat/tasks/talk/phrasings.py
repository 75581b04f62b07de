"""What people say to an assistant, and what this one answers: topics with many phrasings, made by rule."""

from __future__ import annotations

import random

from nanochat.tasks.talk.identity import TOPICS, Topic

# What MegaContext is, in as many sentences as are asked for.
FACTS = (
    "MegaContext is a small language model with a long memory.", "It keeps the whole history as a tree of gists.",
    "A gist stands for many tokens.", "The model attends to a small Working Context of gists and tokens.",
    "Where detail is needed, a gist is expanded into its tokens.",
)  # fmt: skip
OTHER = (
    "Sorry, I am too small for that. Ask me who I am or what MegaContext is, or give me a sum like 12 + 34, a word to spell, "
    "or a list to reverse."
)  # fmt: skip
# Topic → what it says and the words that make a reply right. A reply about facts is right by its number of sentences.
SAID: dict[str, Topic] = {
    "greeting": Topic(
        (
            "Hi", "Hello", "Hey", "Hi!", "Hello!", "Hi there", "Hello there", "Hey there", "Hiya", "Howdy", "Greetings", "Good morning",
            "Good afternoon", "Good evening", "Good day", "Hello, MegaContext", "Hi MegaContext!", "Hey you", "Hello again", "Hi all",
            "Nice to meet you", "Pleased to meet you", "Hello, is anyone there?", "Are you there?", "Is this on?", "Ahoy", "Yo", "Welcome",
            "Hi, my name is Ann", "Hello, I am Tom", "Hey, I have a question", "Can I ask you something?", "Let us begin", "Hello friend",
        ),
        "Hello! I am MegaContext. What can I do for you?",
        ("Hello",),
    ),
    "mood": Topic(
        (
            "How are you?", "How are you today?", "How are you doing?", "How is it going?", "What's up?", "How do you feel?", "Are you OK?",
            "How are things?", "How was your day?", "Hi, how are you?", "Hello! How are you?", "Are you happy?", "Is everything all right?",
            "How have you been?", "Are you well?", "Hey, how is it going?", "Are you tired?", "Do you have feelings?", "How goes it?",
        ),
        "I am a program, so I am always fine. What can I do for you?",
        ("I am a program",),
    ),
    "thanks": Topic(
        (
            "Thanks", "Thank you", "Thanks!", "Thank you!", "Thanks a lot", "Thank you very much", "Many thanks", "Thx", "Cheers", "Great",
            "Great, thanks", "Good job", "Well done", "Perfect", "Nice", "That is right", "That helped", "OK thanks", "Cool", "Wonderful",
            "Thank you for your help", "Thanks for that", "Very good", "Awesome", "Correct", "I appreciate it", "You are helpful", "Good",
        ),
        "You are welcome.",
        ("You are welcome",),
    ),
    "goodbye": Topic(
        (
            "Bye", "Goodbye", "Bye!", "Bye bye", "See you", "See you later", "Good night", "Farewell", "I have to go", "That is all",
            "Quit", "Until tomorrow", "Talk to you later", "Exit", "Take care", "So long", "I am leaving", "We are done",
            "See you tomorrow", "Ciao",
        ),
        "Goodbye!",
        ("Goodbye",),
    ),
    "skills": Topic(
        (
            *TOPICS["skills"].questions, "What else can you do?", "Help", "Help me", "I need help", "What do you do?", "How do I use you?",
            "What should I ask you?", "List your abilities.", "What are your abilities?", "What can you help me with?", "What now?",
            "What are you able to do?", "Tell me what you can do.", "Show me what you can do.", "What are you for?",
            "What is your purpose?", "Give me an example of what you can do.", "What kind of questions can you answer?",
            "What do you offer?", "Are you useful?", "What are your features?", "What can I do here?", "How does this work?",
            "What are my options?", "What is possible here?",
        ),
        TOPICS["skills"].answer,
        TOPICS["skills"].must_say,
    ),
    "who": Topic(
        (
            *TOPICS["who"].questions, "Tell me about yourself.", "Who r u?", "What's your name?", "Say who you are.", "Your name?", "Name?",
            "Describe yourself.", "Identify yourself.", "Tell me who you are.", "Say your name.", "Present yourself.", "And who are you?",
        ),
        TOPICS["who"].answer,
        TOPICS["who"].must_say,
    ),
    "what": Topic(
        (
            *TOPICS["what"].questions, "Are you real?", "Are you alive?", "Are you a bot?", "Are you ChatGPT?", "Are you conscious?",
            "What exactly are you?", "Is this a bot?", "Are you a chatbot?", "Are you artificial?", "Tell me what you are.", "Are you GPT?",
        ),
        TOPICS["what"].answer,
        TOPICS["what"].must_say,
    ),
    **{name: TOPICS[name] for name in ("maker", "memory", "language")},
    # Follow-ups: they come after a reply.
    "more": Topic(
        (
            "Tell me more.", "More", "Go on.", "Continue", "And?", "More details, please.", "What else?", "Can you say more?",
            "Keep going.", "Please go on.", "Is there more?", "I want to know more.", "Elaborate.", "Where can I read more?", "Say more.",
            "Anything else?",
        ),
        "There is more in the README and in the folder obsidian.",
        ("README",),
    ),
    "sure": Topic(
        (
            "Are you sure?", "Really?", "Is that right?", "That is wrong.", "Why?", "How do you know?", "I do not believe you.", "Wrong!",
            "Is that true?", "No", "That is not right.", "You are wrong.", "Check that.", "Are you certain?", "Hmm", "Can I trust you?",
        ),
        "I am small and can be wrong, so check what I say.",
        ("check what I say",),
    ),
    "other": Topic((), OTHER, ("too small", "sum", "spell")),
}  # fmt: skip
FOLLOW_UPS = ("thanks", "more", "sure", "goodbye", "skills")

VERBS = (
    "Describe", "Explain", "Summarise", "Summarize", "Sum up", "Outline", "Define", "Introduce", "Present", "Tell me about", "Talk about",
    "Give me a summary of", "Give a description of", "Give me an overview of", "Write about", "Say something about", "Characterise",
    "Give an explanation of", "Write a summary of", "Teach me about", "Help me understand", "Write a description of", "Tell us about",
)  # fmt: skip
QUESTIONS = (
    "What is", "What's", "What does one need to know about", "What can you say about", "What do you know about", "How would you describe",
)  # fmt: skip
NAMES = ("MegaContext", "MegaContext", "MegaContext", "megacontext", "a MegaContext", "the MegaContext", "this project", "this framework")
ASKING = (
    "", "", "", "Please ", "Can you ", "Could you ", "Would you ", "I want you to ", "I would like you to ", "Now ", "Could you please ",
)  # fmt: skip
NUMBERS = ("one", "two", "three", "four", "five")
BRIEFLY = ("briefly", "in short", "in a nutshell", "in a sentence", "with a single sentence", "in one line", "shortly", "in brief")
AT_LENGTH = ("in detail", "at length", "in full", "thoroughly", "with all details", "as fully as you can", "in depth")
MOST_ASKED = 10  # sentences; more than there are facts get all of them


def about(rng: random.Random) -> tuple[str, int]:
    """Request to say what MegaContext is, and the number of sentences that it asks for; two, if it asks for none."""
    asking = rng.choice(ASKING)
    verb = rng.choice(VERBS if asking or rng.random() < 0.8 else QUESTIONS)
    asked = f"{asking}{verb[0].lower() + verb[1:] if asking else verb} {rng.choice(NAMES)}"
    end = "?" if verb in QUESTIONS or asking.startswith(("Can", "Could", "Would")) else "."
    how, sentences = _length(rng)
    if how and rng.random() < 0.25:
        return f"{how[0].upper()}{how[1:]}, {asked[0].lower()}{asked[1:]}{end}", sentences
    return f"{asked}{rng.choice((' ', ' ', ', ')) if how else ''}{how}{end}", sentences


def _length(rng: random.Random) -> tuple[str, int]:
    kind = rng.random()
    if kind < 0.15:
        return "", 2
    if kind < 0.22:
        return rng.choice(BRIEFLY), 1
    if kind < 0.27:
        return rng.choice(AT_LENGTH), len(FACTS)
    count = rng.randint(1, len(FACTS)) if kind < 0.95 else rng.randint(len(FACTS) + 1, MOST_ASKED)
    number = NUMBERS[count - 1] if count <= len(NUMBERS) and rng.random() < 0.4 else str(count)
    ending = "" if count == 1 else "s"
    form = rng.choice(("in {n} sentence{s}", "in {n} sentence{s}", "in {n} short sentence{s}", "using {n} sentence{s}",
    "with {n} sentence{s}", "in exactly {n} sentence{s}", "in just {n} sentence{s}",
"in {n} simple sentence{s}"))  # fmt: skip
    return form.format(n=number, s=ending), min(count, len(FACTS))
