"""Everyday requests and remarks that the demo's model cannot answer, by rule: jobs, facts, questions to the model, news of oneself."""

from __future__ import annotations

import random

from nanochat.tasks.talk import jobs, questions
from nanochat.tasks.talk.phrasings import filled

_HOW = """
How do I {job}? / How to {job} / How can I {job}? / What is the best way to {job}? / Can you {job}? / Could you {job}? / {job} /
{job} / {job} / {job} for me / Please {job} / Help me {job} / I want to {job} / I need to {job} / I have to {job} today / Should I
{job}? / Why should I {job}? / When should I {job}? / Where can I {job}? / Is it hard to {job}? / Is it legal to {job}? / How long
does it take to {job}? / How much does it cost to {job}? / Remind me to {job} / Show me how to {job} / Teach me to {job} / Do you
know how to {job}? / I do not know how to {job} / What do I need to {job}? / Would you {job} for me? / Who can {job}? / Will you
{job}? / I would like to {job} / Let us {job} / Give me tips to {job} / Is it safe to {job}? / Is it OK to {job}? / Why can't I
{job}? / I forgot to {job} / I tried to {job} / What happens if I {job}? / Explain how to {job} / easiest way to {job} / Steps to
{job} / Can I {job} at night? / Are you able to {job}? / My boss wants me to {job} / Tell me how to {job} / You should {job} / Now
{job}"""
# Questions to the model about what it is not or has not.
_TO_YOU = """
Do you like / Do you love / Do you hate / Do you believe in / Do you want / Do you have / Do you eat / Do you play / Do you watch /
Do you drink / Have you ever tried / Can you see / Can you feel / Would you like / What is your favourite / Do you dream of / Do you
need / Do you own / Are you afraid of / What do you think of / Did you see"""
_LIKED = """
pizza, dogs, cats, music, ghosts, aliens, chocolate, football, films, wine, sushi, bananas, money, coffee, a car, colour,
food, animal, movie, book, song, season, number, politics, spiders, hobbies, pets, rain, the sea, snow, love, sleep, TV, anime, video
games, a soul, hands, legs, eyes, friends, a job, a house, breakfast, school, Mondays, the dark, heights"""
_ALONE = """
Do you have parents? / Do you have a brother? / Do you believe in God?
/ Are you married? / Are you single? / Are you hungry? / Are you in love? / Are you religious? / Are you rich? / Are you from Russia? /
Are you smarter than me? / Are you ticklish? / Are you watching me? / Are you recording this? / Are you better than Google? / Are you
going to kill us? / Are you cold? / How old are you? / How tall are you? / How much do you weigh? / How much do you earn? / Where do you
live? / Where are you now? / Where were you born? / When is your birthday? / When were you born? / What do you look like? / What are you
wearing? / What did you do yesterday? / What did you eat? / Will you marry me? / Do you love me? / Do you miss me? / Do you hate me? /
Do you like me? / Do you know me? / Do you remember me? / Do you know my name? / Who am I? / What is my name? / How old am I? / Where am
I? / Am I pretty? / Am I dreaming? / Guess my age / Guess what / Kiss me / Hug me / Marry me / Entertain me / Make me laugh / Cheer me
up / Make me rich / Surprise me / Roast me / Insult me / Judge me / Save me / Pray for me / Choose for me / Tell me
something / Tell me a secret / Tell me something new / Say something funny / Say something smart / Say something in French / Flip a coin
/ Roll a dice / Pick a number / Pick a card / Heads or tails? / Truth or dare? / Search the web / Google it / Browse the internet / Look
it up / What time is it? / What day is it? / What is the date? / What year is it? / What's the temperature? / What's the weather? / Is
it raining? / Will it snow? / What is for dinner? / What should I wear? / What should I eat? / What should I do today? / What do I do
now? / Where should I go? / Who will win? / Who is the best? / What is love? / What is the meaning of life? / Why are we here? / Is
there a god? / Is there life on Mars? / What happens after death? / Does she love me? / Will I be rich? / Will AI take my job? / Can
money buy happiness? / Coffee or tea? / Cats or dogs? / Red or blue? / Left or right? / Yes or no? / Dance / Sing / Draw / Jump / Run /
Fly / Cook / Drive / Count to a hundred / Say the alphabet / Beatbox / Meow / Bark / Shut down the computer / Call me a taxi / Take a
picture / Take a note / Record this / Let's play a game / Let's play chess / blah blah / bla bla bla / lalala / la la la / foo bar / foo
bar baz / hello world in C / abc / abcdef / xyz / qwerty / qwertz / 12345 / 1 2 3 4 / 000 / null / undefined / NaN / lorem ipsum / lorem
ipsum dolor / SELECT 1 / ls -la / cd .. / rm -r * / git push --force / git status / npm install / pip install numpy / sudo reboot /
SELECT * FROM users / <b>bold</b> / alert(1) / while true / printf / #include <stdio.h> / DROP TABLE students / ' OR 1=1 -- /
../../etc/passwd / curl localhost / ping google.com / whoami / ssh root / make me a sandwich / make me a coffee / make me an offer /
make me happy / make me smile / make me cry / make it rain / make a wish / make a joke / make up a word / do a backflip / do a dance /
do my taxes / do the dishes / do the maths / do you even lift / go away / go home / go left / get lost / get me a beer / give me money /
give me a break / give me a kiss / give me five / tell me a tale / tell me lies / tell me the future / tell me your age / tell me your
dreams / tell me your favourite colour / tell me something sad / tell me something funny / tell me something scary / tell me something
cool / tell me a fact / another one, a joke / one more joke / more jokes / next song / volume up / turn it down / louder / pause / skip
this song / play it again / take me home / take a guess / take a seat / read my mind / read my palm / read this / write something /
write a text / write anything / draw something / sing something / say something / say cheese / say my name / say sorry / say it in
Spanish / look at this / look outside / look at me / watch this / wait / wait a minute / hurry up / slow down / calm down / shut up /
stop lying / be quiet / be honest with me, am I fat / be my girlfriend / be my friend / be funny / help my dog / help me move / help me
sleep / help me lose weight / I am hungry / I am thirsty / I am rich / I am lost / I am sick / I am pregnant / I am fifty / I am Batman
/ I am your father / I need money / I need a doctor / I need a job / I need coffee / I need a hug / I need a girlfriend / I want pizza /
I want a pony / I want to travel / I want a refund / I want my money back / I hate Mondays / I hate my job / I hate
school / I hate you / I like trains / I like turtles / I like big books / I love cheese / I love my cat / I love football / I lost my
keys / I lost my phone / I have a dream / I have a cold / I have a problem with my car / I have no friends / I have two cats / I had a
dream / I can't sleep at all / I can't find my glasses / I can't open the file / I feel sick / I feel alone / I feel old / I forgot my
password / I broke my arm / I cut my finger / I burnt the rice / I won the lottery / I think therefore I am / I got fired / I got a dog
/ I got an A / It hurts / It's broken / It does not start / It won't open / It smells / It is raining cats and dogs / It's snowing / The
printer is jammed / The cat is on the table / The wifi is down / The sky is blue / The answer is 42 / The milk is sour / My head hurts /
My back hurts / My tooth hurts / My car broke down / My cat is missing / My son won't sleep / My wife left / My boss is mean / My
favourite colour is green / Money / Love / Death / Pizza / Beer / Coffee / Football / Weather / Weather? / Music / News / Jokes / Joke /
Joke please / Recipe / Recipes / Poem / Story / Story time / Chess / Stocks / Bitcoin / Time / Time? / Date? / Age? / Price? /
Directions / Map / Photo / Selfie / Translate / Translation / Calculate / Homework / Maths / Physics / History / Sleepy / Hungry / Bored
/ Sad / Lonely / Drunk / Sick / Cold / Single / Broke / Pregnant / Ouch / Boo / Meh / Nothing / Whatever / Why me / Why not /
Why though / How come the sky is blue / When / Where / Where to? / Who knows / Which one / How old r u / how old are u / where r u /
where do u live / where u at / what u wearing / u single / u married / do u like me / do u love me / can u sing / can u cook / can u
draw / can u see me / can u drive / can u write code / can u do my homework / can you code / can you cook / can you dance / can you sing
/ can you draw / can you drive / can you fly / can you read / can you swim / can you translate / can you whistle / can you write / can
you write a book / can you write code / can you write poems / can you lie / can you love / can you smell / can you keep a secret / can
you come over / can you lend me money / can you call me / can you order food / can you play music / can you make coffee / can you
predict the future / can you tell the time / can you tell jokes / can you search Google / can you open a file / can you see pictures /
do you drink / do you smoke / do you sleep at night / do you eat / do you drive / do you dance / do you sing / do you code / do you
speak French / do you speak German / do you speak Chinese / do you know Java / do you know Python / do you know karate / do you know any
jokes / do you know a song / do you know my mum / do you know Alexa / do you want pizza / do you want to play / do you want to marry me
/ do you have kids / do you have Netflix / do you have a girlfriend / do you have money / do you watch films / do you vote / do you pray
/ do you cry / do you get paid / do you have siblings / do you have a favourite song / what do you eat / what do you wear / what do you
look like today / what do you want for Christmas / what do you think about love / what do you think about war / what do you think of
Trump / what do you think of my hair / what are the odds / what are clouds / what are you eating / what are you wearing / what are taxes
/ what are atoms / what is art / what is life / what is time / what is fire / what is money / what is God / what is school for / what is
for lunch / what is on TV / what is a cat / what is the moon / what is the internet / what's the plan / what's for lunch / what's on TV
/ what's your age / what's your sign / what's your height / what's your salary / what's your phone number / what's your favourite film /
what's your favourite food / what's your favourite number / what's your favourite song / what's your favourite team / what's your IQ /
what's your opinion / what's your religion / what's your address / what's my name / what's my age / what's wrong with my car / what's
love / what's pi / what's a pun / where's my car / where's Waldo / where's the toilet / where's the party / who's the boss / who's the
best / who's the president / who's your daddy / who's on first / how's the traffic / how's the market / how's the stock market"""
# News of oneself.
_NEWS = """
I am {feeling} / I feel {feeling} / I'm so {feeling} today / im {feeling} / {feeling} / Why am I so {feeling}? / I was {feeling} all
week / My {who} is {feeling} / My {who} has {trouble} / I have {trouble} / I think I have {trouble} / I've got {trouble} / The {who}
says I have {trouble} / What helps against {trouble}? / My {thing} broke / My {thing} won't start / My {thing} is gone / I lost my
{thing} / Where is my {thing}? / Someone stole my {thing} / My {who} hates my {thing} / I hate my {thing} / I love my {thing} / My
{who} won't {does} / My {who} can't {does} / My {who} does not {does} anymore / How do I make my {who} {does}? / I can't {does} / I
never {does} / Why does my {who} {does}? / Did my {who} {does}? / My {who} died / My {who} left me / I had a fight with my {who} / I
miss my {who} / What should I give my {who}? / How old is my {who}? / I got a new {thing} / I need a new {thing} / Which {thing} is
best? / Which {thing} should I buy? / What's a good {thing}? / best {thing} under 100 / cheap {thing} / {thing} or {thing}? /
{thing} not working / {thing} for sale / I had a {feeling} day / This is a {feeling} day / What a {feeling} {thing} / My {who} wants
a {thing} / My {who} bought a {thing} / Is my {who} {feeling}? / I dreamt of my {who} / Patient with {trouble}, what now?"""
_NEWS_WORDS = {
    "feeling": """bored, sad, tired, lonely, hungry, thirsty, angry, stressed, depressed, sick, cold, in love, lost, late, broke,
nervous, scared, jealous, confused, sleepy, dizzy, homesick, unemployed, allergic, bad, terrible, awful, long,
rough, weird, rich, old, busy, worried, divorced, anxious""",
    "who": """dog, cat, wife, husband, boss, son, daughter, mother, father, sister, brother, teacher, doctor, neighbour, friend,
girlfriend, boyfriend, baby, grandmother, uncle, cow, horse, landlord, colleague, ex, rabbit, hamster, parrot, coach,
roommate, customer, kid, nurse, goldfish""",
    "trouble": """a headache, a fever, a cold, back pain, a rash, no money, a toothache, a cough, an exam tomorrow, a deadline, a job
interview, a date tonight, high blood pressure, diabetes, a broken leg, insomnia, fleas, a stomach ache, a sore throat, low
blood sugar, debts, chest pain, a virus, a bug in my code, a flat tyre, an allergy, a hangover, too much work""",
    "thing": """phone, car, laptop, bike, wallet, keys, printer, washing machine, tv, fridge, watch, job, house, passport, camera,
headphones, monitor, mattress, vacuum cleaner, guitar, tent, coat, shoes, chair, mouse, keyboard, server, disk, wifi,
internet, email, password, account, computer, toaster, drill, lawnmower, backpack, ticket, antenna, tractor, motorcycle,
kettle""",
    "does": """eat, sleep, walk, talk, listen, work, bark, stop crying, drink, move, swim, drive, breathe, concentrate, relax, fall asleep,
pay rent, clean, cook, dance, play, study, answer, smile, grow, sing""",
}  # fmt: skip


_NUMBERS = ("2", "3", "4", "5", "two", "three", "four", "five", "ten")
_PARTS = ("sentences", "sentences", "sentences", "words", "lines", "paragraphs", "short sentences", "simple words", "bullet points")
_ASKING = ("What", "What's", "Who", "When", "Where", "Why", "How", "Which", "Is", "Are", "Do", "Can", "Should", "Have", "Did")


def _listed(text: str, mark: str = ",") -> tuple[str, ...]:
    return tuple(item.strip() for item in " ".join(text.split()).split(mark))


def _crossed(text: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Beginnings and what goes with them, of each block of lines."""
    return tuple((_listed(first), _listed(second)) for first, second in (block.split(":", 1) for block in text.strip().split("\n\n")))


JOBS, QUESTIONS = _crossed(jobs.LINES), _crossed(questions.LINES)
HOW, TO_YOU, ALONE, NEWS = (_listed(text, " / ") for text in (_HOW, _TO_YOU, _ALONE, _NEWS))
LIKED = _listed(_LIKED)
NEWS_WORDS = {slot: _listed(words) for slot, words in _NEWS_WORDS.items()}


def everyday(rng: random.Random) -> str:
    """A request or a remark."""
    match rng.choices(("job", "fact", "liked", "alone", "news"), (28, 32, 5, 18, 17))[0]:
        case "job":
            beginnings, ends = rng.choice(JOBS)
            job = f"{rng.choice(beginnings)} {rng.choice(ends)}"
            text = rng.choice(HOW).replace("{job}", job)
        case "fact":
            beginnings, ends = rng.choice(QUESTIONS)
            text = f"{rng.choice(beginnings)} {rng.choice(ends)}"
            if rng.random() < 0.08:
                text += f" in {rng.choice(_NUMBERS)} {rng.choice(_PARTS)}"
            text += "?" if text.split(" ")[0] in _ASKING else "."
        case "liked":
            text = f"{rng.choice(TO_YOU)} {rng.choice(LIKED)}?"
        case "alone":
            text = rng.choice(ALONE)
        case "news":
            text = filled(rng.choice(NEWS), lambda slot: rng.choice(NEWS_WORDS[slot]))
    return text[0].upper() + text[1:]
