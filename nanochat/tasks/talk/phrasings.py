"""Topics of small talk with many phrasings, made by rule, and what the assistant answers to each."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from nanochat.tasks.talk import abroad
from nanochat.tasks.talk.identity import TOPICS, Topic
from nanochat.tasks.words import any_word

# What MegaContext is, in as many sentences as are asked for.
FACTS = (
    "MegaContext is a small language model with a long memory.", "It keeps the whole history as a tree of gists.",
    "A gist stands for many tokens.", "The model attends to a small Working Context of gists and tokens.",
    "Where detail is needed, a gist is expanded into its tokens.",
)  # fmt: skip
OTHER = (
    'Sorry, I am too small for that. Ask me who I am or what MegaContext is, or try: What is 12 + 34? Spell "kade". Reverse the list: a b c'
)
# Topic → what it says and the words that make a reply right. A reply about facts is right by its number of sentences.
SAID: dict[str, Topic] = {
    "greeting": Topic(
        (
            "{hello}", "{hello}", "{hello} {you}", "{hello}, {you}", "{hello} {you}", "{hello} {hello}", "{hello}, {intro}",
            "{hello}. {intro}", "{hello} {you}, {intro}", "{hello}, {there}", "{hello} {you}, {there}", "{there}", "{intro}", "{hola}",
            "{hola}", "{hola}",
            "{hola} {you}", "{hola}, {intro}", "{hola} {hola}", "{hello}, I am {word}", "{hello} from {word}", "{hello} {word}",
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
            "{thanks} {merci}", "{merci} {much}", "{word}, {merci}",
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
            "{bye}, {leaving}", "{leaving} {then}", "{merci}, {adieu}", "OK, {leaving}", "{thanks}, {leaving}", "{thanks}, {bye}",
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
        ),
        TOPICS["skills"].answer,
        TOPICS["skills"].must_say,
    ),
    "who": Topic(
        (
            *TOPICS["who"].questions, "Tell me about yourself.", "Who r u?", "What's your name?", "Say who you are.", "Your name?", "Name?",
            "Describe yourself.", "Identify yourself.", "Tell me who you are.", "Say your name.", "Present yourself.", "And who are you?",
            "Who is talking?", "Who is writing?", "Who is there on the line?", "How do people call you?", "Which name have you?",
        ),
        TOPICS["who"].answer,
        TOPICS["who"].must_say,
    ),
    "what": Topic(
        (
            *TOPICS["what"].questions, "Are you real?", "Are you alive?", "Are you a bot?", "Are you ChatGPT?", "Are you conscious?",
            "What exactly are you?", "You are a machine, are you not?", "So you are a bot?", "I think you are a robot", "Is this a bot?",
            "Are you a chatbot?", "Are you artificial?", "Tell me what you are.", "Are you GPT?",
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
# Slots of the phrasings.
WORDS: dict[str, tuple[str, ...]] = {
    "hello": (
        "Hi", "Hello", "Hey", "Hiya", "Howdy", "Greetings", "Good morning", "Good afternoon", "Good evening", "Good day", "Yo", "Ahoy",
        "Hello again", "Welcome", "Hi there", "Hello there", "Hey there", "Heya", "Hallo", "Morning", "Evening", "Helloo", "Hii", "Hai",
        "Hullo",
        "Oi", "Ello", "Wassup", "'sup", "G'day", "Yoo", "Hey ya", "Hi hi", "Top of the morning", "Hey hey", "Hola", "Salutations",
        "Well hello",
        "Sup", "Good day to you", "A good morning", "Hi again", "Hey again", "Howdy-do", "Henlo", "Yello", "Afternoon",
    ),
    "you": (
        "MegaContext", "there", "you", "friend", "my friend", "model", "computer", "bot", "robot", "assistant", "everybody", "all", "pal",
        "machine", "AI", "to you", "again", "little model", "old friend", "world", "dear", "program", "sir", "mate", "chat", "partner",
        "buddy", "dude", "bro", "folks", "guys", "team", "everyone", "man", "stranger",
        "madam", "fella", "champ", "boss", "my dear", "thing", "y'all", "anyone", "cutie", "little one",
    ),
    "intro": (
        "my name is Ann", "I am Tom", "I am here", "nice to meet you", "pleased to meet you", "I have a question",
        "can I ask you something?", "let us begin", "I am a new user", "it is me again", "I want to talk", "this is Mary", "let's chat",
        "good to see you", "I am back",
    ),
    "there": (
        "is anyone there?", "are you there?", "is this on?", "do you hear me?", "are you awake?", "are you listening?", "who is there?",
        "anybody home?", "is anybody in?", "does this work?", "testing", "are you up?", "anyone around?", "hello?",
        "knock knock", "you there?",
        "can you hear me?", "are you online?", "is someone here?", "are you ready?", "do you read me?", "is it working?",
    ),
    "how": (
        "How are you?", "how are you", "how are you doing?", "how is it going?", "what's up?", "how do you feel?", "how are things?",
        "how goes it?", "how was your day?", "how have you been?", "how are you feeling?", "how do you do?", "how is life?",
        "how is your day?", "how are u", "how's everything?", "how are you holding up?", "what's new?", "what is going on?",
        "what's happening?", "how's life treating you?", "how are you these days?", "how ya doing?", "you OK?", "are you OK?",
        "how's tricks?",
        "what are you up to?", "how are you, my friend?", "how have things been?", "que tal?", "ça va?", "wie geht's?", "come va?",
        "como vai?", "kak dela?", "how do you feel today?", "whassup?", "how is your mood?", "how goes?", "wazzup",
    ),
    "today": (
        "today", "today?", "this morning?", "these days?", "now?", "tonight?", "right now",
    ),
    "well": (
        "well", "fine", "OK", "all right", "good", "happy", "sad", "tired", "in a good mood", "bored", "angry", "ready",
    ),
    "thanks": (
        "thanks", "Thanks", "Thank you", "thank you", "many thanks", "Thx", "thank you all", "cheers", "I thank you", "thanx",
        "much obliged", "ta", "tyvm", "tysm", "thank ya", "thanks so much", "much appreciated", "thankyou", "thnx", "appreciated",
        "cheers for that",
        "thanks heaps", "thanks a bunch", "thanks a ton", "big thanks", "a thousand thanks", "tks", "my thanks", "I am grateful",
        "bless you",
    ),
    "much": (
        "a lot", "very much", "so much", "for your help", "for that", "again", "for everything", "a million", "for the answer", "for now",
        "really",
    ),
    "praise": (
        "great", "good job", "well done", "perfect", "nice", "cool", "wonderful", "very good", "awesome", "correct", "right", "good",
        "helpful", "excellent", "fine", "super", "nice work", "very helpful", "amazing", "that is right", "brilliant", "good answer",
        "you rock", "you are the best", "love it", "I like it", "that is useful",
        "that was quick", "impressive", "neat", "sweet", "good bot", "clever", "spot on", "exactly", "wow, nice", "bravo", "very useful",
        "lovely",
        "what a great answer", "that is what I needed",
    ),
    "bye": (
        "Bye", "Goodbye", "Bye bye", "See you", "Good night", "Farewell", "So long", "Take care", "Ciao", "See you later",
        "Talk to you later", "bye-bye", "Until tomorrow", "See you tomorrow", "Have a nice day", "Cheerio", "Later", "Good bye",
        "I must go now", "See ya", "Cya", "Peace out", "Catch you later", "Ttyl", "Laters", "Night night", "Sleep well", "Till next time",
        "Have a good one", "Have a great evening", "Bye for now", "Over and out", "Toodle-oo", "See you around", "See you soon",
        "So long then",
        "Be well", "Good bye now", "Fare thee well", "Bye now", "Signing off", "Later then", "Ta-ta", "Nighty night", "Cheers, bye", "Byee",
        "Enjoy your day", "All the best", "Adieu", "Until we meet again",
    ),
    "leaving": (
        "I have to go", "gotta go", "gtg", "g2g", "I am off", "I'm done", "that's it", "that's all", "that is it for today",
        "that is all I need",
        "I need to leave", "I have to run", "time to go", "time for bed", "I am going home", "I'm out", "we can stop here",
        "let us stop here",
        "I will be back", "brb", "I am going to sleep", "I have no more questions", "no more questions", "nothing else", "stop", "end",
        "close",
        "I should get going", "that will be all", "I am leaving now", "off to work", "off to bed", "I must leave", "I have to log off",
        "end of chat", "it is late", "time to sleep", "let us end this", "that was all for today", "enough for today", "I am finished",
    ),
    "hola": abroad.HELLO,
    "merci": abroad.THANKS,
    "adieu": abroad.BYE,
    "then": (
        "then", "later", "tomorrow", "for today", "and thanks", "and thank you", "until next time", "everyone", "and good luck", "again",
    ),
    "made": (
        "made", "built", "created", "trained", "developed", "written", "programmed", "designed", "coded", "invented",
    ),
    "team": (
        "company", "team", "person", "group", "lab", "people", "firm", "university", "programmer", "human",
    ),
    "author": (
        "author", "maker", "creator", "developer", "owner", "inventor", "father", "boss", "designer", "programmer", "trainer",
    ),
    "memory": (
        "memory", "memory", "long memory", "context", "MegaContext", "history", "Working Context", "tree of gists",
    ),
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
    word = rng.choice(WORDS[slot])
    drawn_out = slot in ("hello", "bye") and word[-1] in "aeiouy" and rng.random() < 0.1
    return word + word[-1] * rng.randint(1, 4) if drawn_out else word


def filled(frame: str, word: Callable[[str], str]) -> str:
    """A frame with a `word` in place of each slot."""
    return re.sub(r"\{(\w+)\}", lambda slot: word(slot[1]), frame)
