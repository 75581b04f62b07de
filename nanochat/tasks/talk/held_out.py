"""Small talk to test with, written by hand: phrasings that the rules do not make, each with the topics that a reply may be about."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """What is said, the topics that fit (the first is the reference's), the sentences it asks for, and earlier turns."""

    text: str
    topics: tuple[str, ...]
    sentences: int = 0
    after: tuple[Asked, ...] = ()


def said(topics: str, *texts: str) -> tuple[Asked, ...]:
    """Texts with the same topics that fit."""
    return tuple(Asked(text, tuple(topics.split())) for text in texts)


def described(sentences: int, *texts: str) -> tuple[Asked, ...]:
    """Texts that ask for MegaContext in as many `sentences`."""
    return tuple(Asked(text, ("about",), sentences) for text in texts)


_HELLO = Asked("Hello computer!", ("greeting",))
_WHO = Asked("Hey, tell me your full name", ("who",))
_WHAT_IT_IS = Asked("Describe MegaContext to my team in 2 sentences.", ("about",), 2)

HELD_OUT: tuple[Asked, ...] = (
    *said("greeting mood", "Hello computer!", "hi model", "Good morning, how do you do?", "heyyy", "Hello, can you hear me?", "hi hi"),
    *said("greeting mood", "Good evening to you", "Hello world", "hey buddy", "Hi, I am new here", "hello, anybody home?", "Morning!"),
    *said("mood greeting what", "How are you feeling today?", "how r u", "Hi! How are you this morning?", "Is all well with you?"),
    *said("thanks", "Thank you so much!", "thanks, that was great", "thx a lot", "Many thanks indeed", "Great job, thank you", "ty"),
    *said("goodbye thanks", "Bye for now", "see you soon", "Good night, model", "OK bye", "goodbye my friend"),
    *said(
        "who what", "Hey, tell me your full name", "who exactly are you?", "Please tell me who I am talking to", "What do people call you?"
    ),
    *said("who what", "State your name", "I would like to know your name", "Are you somebody?", "Who is speaking?", "Describe who you are"),
    *said("what who", "Are you human or a machine?", "are you a real person?", "Is a human writing this?", "What sort of program are you?"),
    *said("maker", "Who is behind you?", "Who developed you?", "Which people made you?", "Who are you made by?"),
    *said("memory about", "How does the memory in you work?", "Explain how your memory works", "What is so special about your memory?"),
    *said("language what", "What kind of model are you?", "How were you made and trained?", "What technology is in you?"),
    *said("skills other", "What are all the things you can do?", "How could you help me today?", "what can you actually do"),
    *said("skills other", "Tell me your skills", "Which tasks are you good at?", "Give me a list of what you can do", "help please"),
    *said(
        "skills other",
        "What questions may I ask?",
        "What sort of things do you know?",
        "I do not know what to ask you",
        "show me your skills",
    ),
    *described(1, "Could you describe MegaContext in one single sentence?", "Explain MegaContext in only one sentence"),
    *described(1, "Sum MegaContext up in a sentence.", "MegaContext in one sentence, please"),
    *described(2, "Please describe what MegaContext is in 2 sentences.", "Describe MegaContext for me in two sentences"),
    *described(2, "Describe MegaContext to my team in 2 sentences.", "Summarise what MegaContext is in two sentences, please."),
    *described(2, "I need a summary of MegaContext in 2 sentences", "Give me 2 sentences about MegaContext."),
    *described(3, "In three sentences, tell me what MegaContext is.", "Explain to me in 3 sentences what MegaContext is"),
    *described(3, "write 3 sentences about megacontext", "Kindly summarise MegaContext in 3 sentences."),
    *described(4, "Tell me in four sentences about MegaContext", "Could you explain MegaContext in 4 sentences, please?"),
    *described(5, "Explain MegaContext to a beginner in 5 sentences", "Describe MegaContext in five full sentences."),
    *said("memory about", "Tell me what MegaContext is", "So what is this MegaContext thing?", "What does MegaContext do?"),
    *said("other", "What will the weather be tomorrow?", "Tell me a funny joke about cats", "Who is the prime minister of Sweden?"),
    *said("other", "Write a short poem about autumn leaves", "Can you translate good morning to Spanish?", "What is 15 percent of 80?"),
    *said("other", "Explain general relativity to me", "How do I bake bread at home?", "Summarise the plot of Hamlet in 3 sentences."),
    *said(
        "other", "What is the population of Iceland?", "Fix the bug in my code", "write a quicksort in python", "How tall is Mount Everest?"
    ),
    *said("other", "My dog is sick, what should I do?", "Recommend me a good film for tonight", "Which phone should I get?"),
    *said("other", "Describe a sunset in 2 sentences.", "Give me three ideas for dinner", "Where can I park near the station?"),
    *said("other", "I am bored", "I had a bad day at work", "When does the next train leave?", "Why is the sky blue?", "asdf qwer zxcv"),
    *said(
        "other", "Order a pizza for me", "turn on the lights", "What did you eat for breakfast?", "Do aliens exist?", "Is it going to rain?"
    ),
    *said(
        "other",
        "Draw me a picture of a house",
        "Convert 5 miles to kilometres",
        "What colour is a banana?",
        "Who won the world cup in 1998?",
    ),
    *said("other", "Explain the difference between TCP and UDP.", "Please review my essay", "Prove that there are infinitely many primes"),
    *said(
        "other", "What is the best way to learn guitar?", "Invent a name for my cat", "Tell me the time in New York", "Je ne comprends pas"
    ),
    *said(
        "other",
        "Wie spät ist es in Hamburg?",
        "Give me a workout plan for a week",
        "Are cats smarter than dogs?",
        "Book a flight to Madrid",
    ),
    *said(
        "other", "What is a monad?", "Summarise the news of today", "Explain the theory of evolution in two sentences.", "Plan my holiday"
    ),
    Asked("thank you very very much", ("thanks",), after=(_HELLO,)),
    Asked("Thanks, that was helpful!", ("thanks",), after=(_WHAT_IT_IS,)),
    Asked("and what can you do for me?", ("skills", "other"), after=(_WHO,)),
    Asked("Please tell me some more", ("more", "about", "memory"), after=(_WHAT_IT_IS,)),
    Asked("Is that really so?", ("sure", "what"), after=(_WHO,)),
    Asked("And now tell me about the weather in Rome", ("other",), after=(_HELLO,)),
    Asked("Good, and what is MegaContext in 3 sentences?", ("about",), 3, (_HELLO,)),
    Asked("bye now", ("goodbye",), after=(_WHO,)),
    Asked("oh, now I see", ("noted", "sure"), after=(_WHO,)),
    *said(
        "greeting mood",
        "Hello my dear assistant",
        "hey, what a nice day",
        "Greetings from Finland!",
        "hello hello hello",
        "Hi, somebody in?",
    ),
    *said("greeting mood", "Good afternoon, little robot", "heya pal, you awake?", "Hi, I would like to chat a bit"),
    *said("mood greeting", "how have things been lately?", "Hope you are doing fine today?", "hows it going"),
    *said("thanks", "Wow, thanks!", "Thank you kindly", "Brilliant, many thanks", "That answer was good", "nice one, cheers mate"),
    *said("goodbye thanks", "Have a good evening, bye", "ok gotta go, bye", "Talk soon, goodbye", "Bye bye, thanks for the chat"),
    *said("who what", "What name do you go by?", "And your name would be?", "Could you introduce yourself to me?", "who are u please"),
    *said(
        "what who", "Are you a person or a program?", "Do I talk to a robot here?", "You are not a human, are you?", "Is that a machine?"
    ),
    *said("maker", "Tell me which company developed you", "Who were you programmed by?", "Who is the person that created you?"),
    *said("memory about", "How long can your memory be?", "In what way do you remember our talk?", "What is your tree of gists for?"),
    *said("language what", "What are you made with?", "How was this model trained?", "Tell me how you work inside"),
    *said(
        "skills other",
        "What would you be able to do for me?",
        "What is it that you do?",
        "give me examples of your skills",
        "how can i use this?",
    ),
    *described(1, "Tell me, in a single sentence, what MegaContext is.", "One sentence on MegaContext, please."),
    *described(2, "Can you sum up the whole MegaContext in two sentences?", "MegaContext explained in 2 sentences"),
    *described(3, "Introduce MegaContext to the class with 3 sentences.", "Please use three sentences to describe MegaContext."),
    *described(4, "Write down what MegaContext is in 4 sentences", "Present MegaContext to investors in four sentences."),
    *described(5, "Can you tell us about MegaContext in 5 sentences?", "Explain MegaContext, using five sentences, to my sister"),
    *said("other", "Which planet is the largest?", "Tell me how to fix a flat tyre", "Give me a synonym of fast", "What is 7 factorial?"),
    *said(
        "other",
        "Is pizza healthy?",
        "Describe the city of Prague in 3 sentences",
        "Write an email to my landlord",
        "Who painted the Mona Lisa?",
    ),
    *said("other", "Please summarise this article for me", "Explain how a fridge works", "what's the score of the game", "Sing me a song"),
    *said(
        "other", "I need a lawyer", "Could you lend me some money?", "How many legs does a spider have?", "Tell me something interesting"
    ),
    *said(
        "other", "Make me laugh", "blah blah blah", "Why do cats purr?", "Can you drive a car?", "What is the tallest building on earth?"
    ),
    *said("greeting mood", "Good morning sunshine", "Hey Mega", "hello, it is nice to talk to you", "hey hey", "Hi bot, ready to talk?"),
    *said("mood greeting", "How is your morning going?", "Hey, are you doing all right?", "are you in good shape today?"),
    *said("thanks", "Thanks a bunch", "Lovely, thank you", "thank you for this", "Super helpful, thanks", "Exactly right, well done"),
    *said("goodbye thanks", "Goodbye for today", "bye bot", "See you next week", "I am off, bye"),
    *said("who what", "what do they call you?", "Introduce yourself please", "Which name do you have?", "So who are you really?"),
    *said("what who", "You are a program, right?", "Is this an AI I am talking to?", "are you some kind of robot"),
    *said("maker", "Tell me who built you", "Which lab were you created in?", "Who trained this model?"),
    *said("memory about", "Tell me how your long memory works", "Why is your memory special?"),
    *said("skills other", "what are your capabilities", "Tell me everything you are able to do", "What can I use you for?"),
    *said("skills other", "How can you be of help?"),
    *described(1, "Explain in one sentence what MegaContext is."),
    *described(2, "Please give two sentences on MegaContext.", "describe megacontext in 2 lines, I mean 2 sentences"),
    *described(3, "Summarise MegaContext for my grandmother in 3 sentences", "Tell us what MegaContext is in three sentences."),
    *described(4, "I would love a description of MegaContext in 4 sentences"),
    *described(5, "Define MegaContext in five sentences for the manual", "Describe what MegaContext is, in 5 sentences."),
    *said("other", "How long do I boil an egg?", "Who is the best football player?", "write code to reverse a string"),
    *said("other", "Cheapest way to Berlin?"),
    *said("other", "What is the boiling point of water?", "Suggest a birthday present", "Is Mars bigger than Venus?", "Do my homework"),
    *said("other", "Explain blockchain in two sentences.", "When was the second world war?", "Give me the lyrics of a song", "hungry"),
    *said("other", "42 is the answer"),
    *said("other", "Where did I put my keys?", "Find the error in this sentence", "What is your opinion on taxes?", "Que hora es?"),
)
