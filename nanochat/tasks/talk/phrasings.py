"""Topics of small talk with many phrasings, made by rule, and what the assistant answers to each."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from nanochat.tasks.talk.identity import TOPICS, Topic
from nanochat.tasks.talk.slots import WORDS
from nanochat.tasks.words import any_word

# What MegaContext is, in as many sentences as are asked for.
FACTS = (
    "MegaContext is a small language model with a long memory.", "It keeps the whole history as a tree of gists.",
    "A gist stands for many tokens.", "The model attends to a small Working Context of gists and tokens.",
    "Where detail is needed, a gist is expanded into its tokens.",
)  # fmt: skip
OTHER = 'Sorry, I am too small for that. Try: What is MegaContext? What is 12 + 34? Spell "kade".'
# Topic → what it says and the words that make a reply right. A reply about facts is right by its number of sentences.
SAID: dict[str, Topic] = {
    "greeting": Topic(
        (
            "{hello}", "{hello}", "{hello} {you}", "{hello}, {you}", "{hello} {you}", "{hello} {hello}", "{hello}, {intro}",
            "{hello}. {intro}", "{hello} {you}, {intro}", "{hello}, {there}", "{hello} {you}, {there}", "{there}", "{intro}", "{hola}",
            "{hola}", "{hola}",
            "{hola} {you}", "{hola}, {intro}", "{hola} {hola}", "{hello}, I am {word}", "{hello} from {word}", "{hello} {word}",
            "{hello}! {intro}", "{hello}, {intro}, {intro}", "{intro}, {hello}", "{oh} {hello}",
            "{oh}, {hello} {you}", "{hello} {hola}", "{hello} {you} {you}",
        ),
        "Hello! I am MegaContext. What can I do for you?",
        ("Hello",),
    ),
    "mood": Topic(
        (
            "{how}", "{how}", "{hello}, {how}", "{hello} {you}, {how}", "{hello}! {how}", "And {how}", "{how} {today}",
            "{hello}, {how} {today}", "Are you {well}?", "Are you {well} {today}?", "Do you feel {well}?", "Is everything {well}?",
            "Is all {well}?", "Do you have feelings?", "You {well}?", "{hola}, {how}", "Are things {well}?", "I hope you are {well}",
            "All {well}?", "What is new?", "What is new {today}",
        ),
        "I am a program, so I am always fine. What can I do for you?",
        ("I am a program",),
    ),
    "thanks": Topic(
        (
            "{thanks}", "{thanks}", "{thanks} {much}", "{thanks} {much}", "{praise}", "{praise}, {thanks}", "{praise}, {thanks} {much}",
            "{thanks}, {praise}", "{thanks} {much}, {praise}", "{thanks}, {you}", "{thanks} {word}", "{praise} {word}, {thanks}",
            "{thanks} for the {word}", "{word}, {thanks}", "That was {praise}, {thanks}", "That is {praise}", "You are {praise}",
            "{praise} {praise}", "I appreciate it", "That helped", "That helped, {thanks}", "You helped me", "{merci}", "{merci}",
            "{merci} {you}", "{merci}, {praise}",
            "{thanks} {merci}", "{merci} {much}", "{word}, {merci}", "{thanks}, {helped}", "{helped}", "{helped}, {thanks}",
            "{thanks} {you}, {helped}",
            "{thanks} {you} {much}", "OK {thanks}", "{oh} {thanks}", "{oh}, {thanks} {much}", "{oh}, {praise}", "{praise}, {helped}",
            "{helped}. {praise}",
        ),
        "You are welcome.",
        ("You are welcome",),
    ),
    "goodbye": Topic(
        (
            "{bye}", "{bye}", "{bye} {you}", "{bye}, {you}", "{bye} {then}", "{bye} {then}", "OK, {bye}", "{bye} {word}", "{bye}, {word}",
            "{bye} {word} {word}", "{word}, {bye}", "OK {bye}", "{bye}, {bye}", "Well, {bye} {then}", "I have to go", "That is all",
            "I am leaving", "We are done", "I have to go, {bye}", "That is all, {bye}", "Quit", "Exit", "{adieu}", "{adieu}",
            "{adieu} {you}", "{leaving}", "{leaving}", "{leaving}, {bye}",
            "{bye}, {leaving}", "{leaving} {then}", "{merci}, {adieu}", "{bye}, {wish}", "{bye} and {wish}", "{bye} {you}, {wish}",
            "{wish}",
            "{wish} {you}", "{wish}, {bye}", "{bye} {you}, {leaving}", "{oh} {bye}", "{oh}, {leaving}", "{leaving}. {wish}",
            "{adieu}, {wish}", "{bye} {bye}", "OK, {leaving}", "{thanks}, {leaving}", "{thanks}, {bye}",
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
            "What are my options?", "What is possible here?", "What are your skills and limits?", "What is your job?", "What could you do?",
            "What do you know how to do?",
            "What are your {abilities}?", "What are your {abilities}?", "List your {abilities}.", "Show me your {abilities}.",
            "Do you have any {abilities}?", "Which {abilities} do you have?", "Tell me about your {abilities}.", "Your {abilities}?",
            "What {abilities} do you have?", "{abilities}", "What can you {do_for}?", "What can you {do_for}?", "What could you {do_for}?",
            "What are you able to {do_for}?", "Tell me what you can {do_for}.", "What things can you {do_for}?",
            "Give me a list of what you can {do_for}.", "Give me some examples of what you {do_for}.", "How can you {help_me}?",
            "How could you {help_me}?", "How do you {help_me}?", "Can you {help_me}?", "Could you {help_me}, please?",
            "In what way can you {help_me}?",
            "What can I {ask}?", "What should I {ask}?", "What could I {ask}?", "What am I allowed to {ask}?",
            "I do not know what to {ask}.",
            "I have no idea what to {ask}.", "Tell me what to {ask}.", "What do people {ask}?", "What is your {purpose}?",
            "What's the {purpose} of {this_bot}?", "Explain your {purpose}.", "How do I use {this_bot}?", "How to use {this_bot}?",
            "How does {this_bot} work?", "What is {this_bot} for?", "What is {this_bot} good for?", "What can {this_bot} {do_for}?",
            "What does {this_bot} do?", "Why should I use {this_bot}?", "Why should I use you?", "Are you any good?",
            "Are you good at anything?",
            "What are you useful for?", "What are you made for?", "What are you best at?", "What are you bad at?", "What can't you do?",
            "Menu", "Manual", "Tutorial", "Instructions", "Commands", "/help", "help!", "Usage info", "Getting started",
            "Where do I start?",
            "How do I start?", "Demo", "Give me a demo.", "Show me a demo.", "Show me something.", "Show me what you know.",
            "I need assistance.",
            "I need a hand.", "I need some help with something.", "I'm stuck", "I am new, what can I {ask}?", "Guide me.",
            "Help out a {job}.",
            "What is on offer?", "What is there to do here?", "Impress me with your {abilities}.",
            "A short list of your {abilities}, please.",
        ),
        TOPICS["skills"].answer,
        TOPICS["skills"].must_say,
    ),
    "who": Topic(
        (
            *TOPICS["who"].questions, "Tell me about yourself.", "Who r u?", "What's your name?", "Say who you are.", "Your name?", "Name?",
            "Describe yourself.", "Identify yourself.", "Tell me who you are.", "Say your name.", "Present yourself.", "And who are you?",
            "Who is talking?", "Who is writing?", "Who is there on the line?", "How do people call you?", "Which name have you?",
            "{tell_me} your name", "{tell_me} your name", "{tell_me} your full name", "{tell_me} who you are", "{tell_me} your identity",
            "What is {this_bot} called?", "What is the name of {this_bot}?", "What name do I {ask}?", "How shall I call you?",
            "How should I address you?", "What do your friends call you?", "What do they call {this_bot}?", "By what name are you known?",
            "Do you have a nickname?", "What is your nickname?", "And you are?", "You are?", "Who's this?", "Who is it?",
            "Who am I chatting with?", "Who do I talk to?", "With whom do I speak?", "Who is answering me?", "Who is on the other side?",
            "Who's behind the screen?", "Who sits there?", "Who are you, really?", "Who or what are you?", "Who the hell are you?",
            "Who are you, {you}?", "Who are you again?", "I am {name}, who are you?", "I'm {name}. And you?",
            "My name is {name}, what is yours?",
            "Which bot is this?", "Which AI is this?", "Which assistant is this?", "Which model am I talking to?", "Name and rank!",
            "Your name please", "Full name?", "Name yourself.", "Introduce yourself to a {job}.", "Introduce {this_bot}.",
            "A few words about yourself, please.", "Say something about yourself.", "Can you tell me about yourself?", "Who is {this_bot}?",
            "I forgot your name", "I did not catch your name", "Have we met? Who are you?", "Is your name {name}?",
            "Are you called {name}?",
            "Are you {name}?",
        ),
        TOPICS["who"].answer,
        TOPICS["who"].must_say,
    ),
    "what": Topic(
        (
            *TOPICS["what"].questions, "Are you real?", "Are you alive?", "Are you a bot?", "Are you ChatGPT?", "Are you conscious?",
            "What exactly are you?", "You are a machine, are you not?", "So you are a bot?", "I think you are a robot", "Is this a bot?",
            "Are you a chatbot?", "Are you artificial?", "Tell me what you are.", "Are you GPT?",
            "Are you {being}?", "Are you {being}?", "Are you {being}?", "Are you {being} or {being}?", "Are you really {being}?",
            "So are you {being}?", "Are you just {being}?", "Are you, like, {being}?", "Are you some kind of {being}?",
            "You are {being}, right?",
            "You're {being}, aren't you?", "You must be {being}.", "I think you are {being}", "I bet you are {being}",
            "You sound like {being}",
            "Is this {being}?", "Is this {being} or {being}?", "Is it {being}?", "Is that {being}?", "Am I talking to {being}?",
            "Am I chatting with {being}?", "Am I speaking with {being} or {being}?", "Is there {being} behind this?",
            "Is {being} typing this?",
            "Is {being} writing the answers?", "Is {being} answering me?", "Do I speak with {being}?", "{being}?", "{being} or {being}?",
            "Wait, are you {being}?", "Prove that you are not {being}.", "Are you male or female?", "Are you a he or a she?",
            "What gender are you?", "What species are you?", "What on earth are you?", "What the hell are you?", "What is {this_bot}?",
            "What sort of creature are you?", "What type of AI are you?", "What kind of {this_bot} is this?", "Is {this_bot} {being}?",
            "What are you really?", "What are you, {being}?", "What r u", "Tell me, are you {being}?", "Do you exist?", "Are you sentient?",
            "Are you self-aware?", "Are you intelligent?", "Are you made of metal?", "Are you in a computer?",
        ),
        TOPICS["what"].answer,
        TOPICS["what"].must_say,
    ),
    "maker": Topic(
        (
            *TOPICS["maker"].questions, "Who {made} you?", "Who {made} you?", "Which {team} {made} you?", "By whom were you {made}?",
            "Were you {made} by a {team}?", "Who is your {author}?", "Who are your {author}s?", "What {team} {made} you?",
            "Tell me who {made} you.", "Who are you from?", "Whose model are you?", "Who has {made} you?", "Who do you belong to?",
            "Do you have a {author}?",
            "Who {made} {this_bot}?", "Who paid for you?", "Who runs you?", "Who operates {this_bot}?", "Who owns you?",
            "Who owns {this_bot}?",
            "Who is responsible for you?", "What is the name of your {author}?", "Tell me about your {author}.", "Your {author}?",
            "Which {team} is behind you?", "Which {team} do you come from?", "Where were you {made}?", "Who came up with you?",
            "Did Google make you?", "Did OpenAI build you?", "Did a {team} make you?", "Are you {made} by a {team}?", "Who did {made} you?",
            "Whose idea were you?", "Who gave you your name?", "Who should I thank for you?",
        ),
        TOPICS["maker"].answer,
        TOPICS["maker"].must_say,
    ),
    "memory": Topic(
        (
            *TOPICS["memory"].questions, "How does your {memory} work?", "Explain your {memory}.", "Tell me about your {memory}.",
            "How is your {memory} built?", "What is a gist?", "What are gists?", "What is the tree of gists?", "What is a Working Context?",
            "How much can you remember?", "Do you have a {memory}?", "Can you remember things?", "Do you forget?",
            "Describe your {memory}.", "How do gists work?", "What is your {memory} like?", "How big is your {memory}?",
            "What is {memory} to you?", "How good is your {memory}?",
        ),
        TOPICS["memory"].answer,
        TOPICS["memory"].must_say,
    ),
    "language": Topic(
        (
            *TOPICS["language"].questions, "How were you {made}?", "How have you been {made}?", "What kind of model are you?",
            "Which model are you?", "What is your architecture?", "Are you a transformer?", "How many parameters do you have?",
            "What code are you {made} with?", "What were you trained on?", "Tell me how you were {made}.", "Explain how you work.",
            "Which technology do you use?",
        ),
        TOPICS["language"].answer,
        TOPICS["language"].must_say,
    ),
    # Follow-ups: they come after a reply.
    "more": Topic(
        (
            "Tell me more.", "More", "Go on.", "Continue", "And?", "More details, please.", "What else?", "Can you say more?",
            "Keep going.", "Please go on.", "Is there more?", "I want to know more.", "Elaborate.", "Where can I read more?", "Say more.",
            "Anything else?", "I do not understand.", "What do you mean?", "Can you explain that again?", "Huh?", "I am lost.",
            "In other words?",
            "Give me an example.", "And then?", "So?", "What does that mean?", "Can you be more precise?", "How so?", "Such as?", "Next",
            "Tell me a bit more.", "Tell me more about that.", "More please", "More info", "More information, please.", "Even more",
            "Some more", "Any more?", "Anything more?", "Is that all?", "Is that everything?", "That's all?", "Go ahead.", "Go deeper.",
            "Expand on that.", "Expand.", "Explain further.", "Explain that.", "Explain better.", "Give me more.", "Give me more details.",
            "Details?", "Further?", "And what else?", "And more?", "And next?", "What's next?", "What comes next?", "What more?",
            "Then what?",
            "Keep talking.", "Keep it coming.", "Carry on.", "Proceed.", "Do continue.", "Please continue, {you}.", "Go on, {you}.",
            "One more.",
            "Another one.", "Again", "Say that again.", "Repeat that.", "Rephrase it.", "Say it differently.", "Simpler, please.",
            "What was that?", "Pardon?", "What?", "Come again?", "I didn't get it.", "I am confused.", "That is too short.",
            "This is unclear.", "I cannot follow.", "I want more.", "I'd like to hear more.", "Where can I learn more?", "Where is more?",
            "Can you go on?", "Can you tell me more?", "Could you elaborate?", "Could you give an example?", "For example?", "Like what?",
            "Meaning?", "As in?", "Interesting, go on.", "Nice, tell me more.", "OK, more.", "Ok and?", "Yes, go on.", "Hm, and then?",
        ),
        "There is more in the README and in the folder obsidian.",
        ("README",),
    ),
    "sure": Topic(
        (
            "Are you sure?", "Really?", "Is that right?", "That is wrong.", "Why?", "How do you know?", "I do not believe you.", "Wrong!",
            "Is that true?", "No", "That is not right.", "You are wrong.", "Check that.", "Are you certain?", "Hmm", "Can I trust you?",
            "Are you really sure?", "Are you 100% sure?", "Sure?", "For real?", "Seriously?", "Is it true?", "True?", "Honestly?",
            "No way", "Nope", "I doubt it.", "I doubt that.", "That can't be right.", "That is not true.", "That is false.", "False",
            "Not true", "Incorrect", "You're mistaken.", "You made a mistake.", "That is a lie.", "You are lying.", "Liar", "Prove it.",
            "Double-check that.", "Check again.", "Are you positive?", "Who says so?", "Says who?", "Says you", "Source?",
            "How can you know?",
            "How come?", "Why so?", "Why is that?", "But why?", "Are you kidding?", "You're joking.", "Can that be?", "Is this correct?",
            "Is that a fact?", "That's odd.", "That is strange.", "I don't think so.", "I don't buy it.",
        ),
        "I am small and can be wrong, so check what I say.",
        ("check what I say",),
    ),
    "noted": Topic(
        (
            "OK", "Okay", "I see", "Got it", "Understood", "All right", "Yes", "Yep", "Sure", "Sounds good", "Interesting", "Aha",
            "Right then",
            "Makes sense", "That makes sense", "I understand", "Oh", "Ah OK", "Fair enough", "Good to know", "Noted", "Never mind",
            "Oh well",
            "OK then", "Yeah", "Wow", "Ha ha", "Well", "No problem", "I know",
        ),
        "Good. What else can I do for you?",
        ("What else can I do",),
    ),
    "other": Topic((), OTHER, ("too small", "12 + 34", "Spell")),
}  # fmt: skip
FOLLOW_UPS = ("thanks", "more", "more", "sure", "goodbye", "skills", "noted")

VERBS = (
    "Describe", "Explain", "Summarise", "Summarize", "Sum up", "Outline", "Define", "Introduce", "Present", "Tell me about", "Talk about",
    "Give me a summary of", "Give a description of", "Give me an overview of", "Write about", "Say something about", "Characterise",
    "Give an explanation of", "Write a summary of", "Teach me about", "Help me understand", "Write a description of", "Tell us about",
)  # fmt: skip
QUESTIONS = (
    "What is", "What's", "What does one need to know about", "What can you say about", "What do you know about", "How would you describe",
)  # fmt: skip
NAMES = (
    "MegaContext",
    "MegaContext",
    "MegaContext",
    "megacontext",
    "a MegaContext",
    "the MegaContext",
    "this project",
    "this framework",
    "Mega Context",
    "mega context",
    "MEGACONTEXT",
    "mega-context",
    "MegaContext the model",
    "this MegaContext thing",
)
ASKING = (
    "", "", "", "Please ", "Can you ", "Could you ", "Would you ", "I want you to ", "I would like you to ", "Now ", "Could you please ",
)  # fmt: skip
AUDIENCES = (
    " to me", " for me", " to a child", " to my friend", " for my boss", " to somebody", " for the report", " for a talk", " like I am ten",
)  # fmt: skip
ADJECTIVES = (
    "", "", "", "short ", "simple ", "clear ", "long ", "plain ", "whole ", "separate ", "good ", "complete ",
)  # fmt: skip
NUMBERS = ("one", "two", "three", "four", "five")
BRIEFLY = ("briefly", "in short", "in a nutshell", "in a sentence", "with a single sentence", "in one line", "shortly", "in brief")
AT_LENGTH = ("in detail", "at length", "in full", "thoroughly", "with all details", "as fully as you can", "in depth")
COMMON_FIRST = 1.5  # 1: all words of a slot are drawn equally often; above it, those at the front of the list more often
MOST_ASKED = 10  # sentences; more than there are facts get all of them


def about(rng: random.Random) -> tuple[str, int]:
    """Request to say what MegaContext is, and the number of sentences that it asks for; two, if it asks for none."""
    if rng.random() < 0.15:  # as in the documentation
        count = _count(rng)
        return f"{rng.choice(VERBS[:3])} MegaContext in {count} sentence{'s' * (count > 1)}.", count
    asking = rng.choice(ASKING)
    verb = rng.choice(VERBS if asking or rng.random() < 0.8 else QUESTIONS)
    asked = f"{asking}{verb[0].lower() + verb[1:] if asking else verb} {rng.choice(NAMES)}"
    end = "?" if verb in QUESTIONS or asking.startswith(("Can", "Could", "Would")) else "."
    if rng.random() < 0.2:
        asked += rng.choice(AUDIENCES)
    how, sentences = _length(rng)
    if how and verb.endswith(" about") and rng.random() < 0.2:
        return asked.replace(" about ", f" {how} about ", 1) + end, sentences
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
    count = _count(rng) if kind < 0.95 else rng.randint(len(FACTS) + 1, MOST_ASKED)
    number = NUMBERS[count - 1] if count <= len(NUMBERS) and rng.random() < 0.4 else str(count)
    ending = "" if count == 1 else "s"
    form = rng.choice(("in", "in", "in", "using", "with", "in exactly", "in just", "in only", "in about")) + " {n} {adjective}sentence{s}"
    return form.format(n=number, s=ending, adjective=rng.choice(ADJECTIVES)), min(count, len(FACTS))


def _count(rng: random.Random) -> int:
    """Sentences that are asked for, more often many: they are the harder to count."""
    return rng.choices(range(1, len(FACTS) + 1), (2, 2, 2, 3, 4))[0]


def phrased(rng: random.Random, topic: str) -> str:
    """One of the phrasings of a topic, its slots filled."""
    return filled(rng.choice(SAID[topic].questions), lambda slot: _word(rng, slot))


def _word(rng: random.Random, slot: str) -> str:
    if slot == "word":
        return any_word(rng)
    words = WORDS[slot]
    word = filled(words[int(len(words) * rng.random() ** COMMON_FIRST)], lambda inner: _word(rng, inner))
    drawn_out = slot in ("hello", "bye") and word[-1] in "aeiouy" and rng.random() < 0.1
    return word + word[-1] * rng.randint(1, 4) if drawn_out else word


def filled(frame: str, word: Callable[[str], str]) -> str:
    """A frame with a `word` in place of each slot."""
    return re.sub(r"\{(\w+)\}", lambda slot: word(slot[1]), frame)
