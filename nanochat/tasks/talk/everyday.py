"""Everyday requests and remarks that the demo's model cannot answer, by rule: jobs, facts, questions to the model, news of oneself."""

from __future__ import annotations

import random

from nanochat.tasks.talk.phrasings import filled

# Verbs : what they are done to. Every verb of a line goes with every object of it.
_JOBS = """
fix, repair, mend, replace, clean: a flat tyre, my bike, the sink, the dishwasher, a leaking tap, my laptop, the heating, a broken zip,
the roof, my glasses, the toaster, a cracked screen, this printer, the brakes, my watch

cook, bake, prepare, make, reheat: pasta, a birthday cake, sourdough bread, chicken curry, fried rice, lentil soup, an omelette, pancakes,
roast beef, risotto, cookies, a salad, tea, espresso, a smoothie, sushi, dinner for six, lunch, porridge, potatoes

write, draft, compose, edit, improve, proofread, shorten: an essay, a cover letter, my resume, a speech for a wedding, an email to my
teacher, a poem about rain, a limerick, a love letter, a blog post, a report, a short story, an apology, a song, a press release, this
paragraph, my thesis, a complaint, a tweet, a haiku, a product description, lyrics, an obituary, a contract, a novel

write, implement, debug, refactor, optimise, explain, test: a binary search, a linked list, a web server, a regex for emails, this
function, a quicksort, a python script, a shell script, a SQL query, a React component, my unit tests, a game of snake, a sudoku solver, a
Java class, a docker file, a C program, this code, a loop, a for loop in Rust, an API, a merge sort, bubble sort, a calculator in
JavaScript

book, find, reserve, compare, cancel: a flight to Lisbon, a hotel in Prague, a table for two, a train to Munich, a taxi, concert tickets,
a cheap apartment, a doctor nearby, a dentist, a plumber, a gym, a parking space, my subscription, an appointment, a rental car, car
insurance, a good school

translate, say, pronounce: this letter into Polish, hello to Finnish, good night in Korean, hi into
Greek, good evening to Turkish, the sentence into German, I love you in French, this text to Arabic, thank you in Japanese, thanks into
Swahili, my name in Chinese, the menu, water in Spanish, how are you in Italian, goodbye to Russian, bye in Danish, good day into Thai,
see you later in Hindi, welcome to Hebrew, where is the station in Czech, a poem to English, the word home into Latin, cheers in Dutch

solve, calculate, work out, compute, prove, integrate, differentiate: this equation, the area of a circle, x squared plus 3x, the square
root of 90, 12 percent of 250, 3 to the power of 7, the mean of these numbers, the Pythagorean theorem, a system of equations, my taxes,
compound interest, the volume of a sphere, my BMI, 5 factorial, the derivative of tan x, the determinant, a quadratic equation, the odds
of winning, 1000 divided by 7, the perimeter

learn, practise, study, teach me, improve at: guitar, the piano, Spanish, calculus, to swim, to dance, chess, yoga, juggling, to drive,
cooking, to code, drawing, biology, statistics, to knit, public speaking, photography, grammar, physics, to ski, surfing

set, start, cancel, stop, snooze: an alarm for 6, a timer for 10 minutes, a reminder for tomorrow, the stopwatch, an alarm at noon, the
countdown, a meeting at 3

turn on, turn off, open, close, dim, unlock: the lights, the TV, the heating, the garage, the window, the radio, the camera, my calendar,
the door, spotify, the browser, the fan, the oven

play, sing, recommend, suggest, find, rate: a song, some jazz, a film, a thriller, a podcast, a board game, a good book, an album, a TV
series, a restaurant, a comedy, classical music, a video game, a museum, a wine, a perfume, a gift for my wife, a present for a teenager,
a playlist

tell me, give me, make up, share: a joke, a riddle, a bedtime story, a fun fact, a pun, a story about a pirate, a quote, a horror story, a
tongue twister, a secret, a fairy tale, a poem, a nickname, advice, a compliment, the news, an idea for a startup, the lottery numbers,
your opinion, the truth

plan, organise, schedule, budget for: a trip to Greece, my week, a birthday party, our wedding, a workout, a diet, a meeting with the
team, the move, a picnic, a road trip, my retirement, a garden, a conference, the weekend

buy, sell, order, return, ship, pay for: bitcoin, shares of Tesla, a used car, a pizza, shoes online, gold, a house, an iPhone, flowers, a
sofa, concert tickets, groceries, a laptop, stamps, insurance, a bicycle, my old books, a ring

treat, cure, prevent, avoid, get rid of, deal with: a headache, the flu, back pain, a sunburn, acne, a cold, mosquito bites, insomnia,
anxiety, a cough, food poisoning, hiccups, mice, ants in the kitchen, weeds, stress, a hangover, an allergy, dandruff, moths, debt, noisy
neighbours, a fever, a nosebleed

summarise, analyse, review, grade, check, rate, discuss: this article, the book Dune, my essay, the plot of Macbeth, the meeting notes,
this PDF, the data, my homework, chapter three, the report, this link, this picture, the survey, my answer, the balance sheet, our
contract, the document, this video

draw, paint, design, sketch, photograph, build: a cat, a logo, a house, a dragon, a robot dog, a poster, a website, a treehouse, a
portrait, an app, a bookshelf, a paper plane, a bridge, a birdhouse, a landing page, a PC, a shed, a map of Europe, a flag, a tattoo

grow, plant, feed, train, walk, wash, bathe: tomatoes, my dog, a puppy, roses, the cat, basil, my hamster, an avocado tree, the fish, my
horse, the lawn, a cactus, the chickens, strawberries, the baby, my parrot

install, update, delete, configure, download, uninstall, restart, back up: Ubuntu, the printer driver, numpy, Windows, my phone, a VPN,
the wifi, Photoshop, Chrome, nginx, postgres, a package, docker, the router, my files, the app, git, a virus scanner, Kubernetes, Excel,
the database

call, text, email, message, visit, invite, marry, thank, forgive, impress, divorce: my mother, my boss, the police, an ambulance, grandma,
the bank, customer service, my ex, a lawyer, John, the landlord, my sister, the neighbours, Sarah, the school, my husband, a girl, the
mayor

lose, gain, save, earn, invest, donate, borrow, lend me: weight, money, ten pounds, muscle, a million, 500 euros, time, some cash, twenty
dollars, my savings, calories, fuel

hack, steal, spy on, break into, crack, guess: a password, facebook, my neighbour's wifi, the bank, a phone, the exam, a safe, an account,
someone's email, the school network

help me with, do, finish, start, skip, postpone: my homework, the laundry, my maths assignment, the dishes, a science project, my chores,
the ironing, a crossword, my tax return, the puzzle, today's quiz, my exam, the shopping
"""
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
# Questions : what they are about.
_QUESTIONS = """
What is the capital of, What is the population of, What is the currency of, Who is the president of, Where is, What language do they speak
in, Tell me about, What is the flag of, How big is, What is the history of, Is it safe to travel to, Who rules, What time is it in, How is
the weather in, How far is it to, What is the area of, capital of, weather in, Describe, Which countries border, Who lives in, Do I need a
visa for, What can I see in, What is the king of: France, Mongolia, Brazil, Kenya, Iceland, Japan, Peru, Vietnam, Sweden, Egypt, Chile,
Nepal, Poland, Cuba, Portugal, Nigeria, Iran, Thailand, New Zealand, Texas, California, Scotland, Bavaria, Berlin, Chicago, Sydney,
Madrid, Moscow, Cairo, Seoul, Toronto, Athens, Dublin, the United States, the UK, Lagos, Mumbai, Hawaii, Greenland, Alaska, the
Netherlands, Belgium

How tall is, How high is, How old is, Who built, Where is, How heavy is, How far away is, What colour is, How deep is, How long is, How
big is, Why is it called, Show me: Mount Everest, the Eiffel Tower, the Statue of Liberty, the Great Wall, the moon, Mars, the Nile, the
Sahara, the Pacific Ocean, Big Ben, the Colosseum, Jupiter, the Titanic, an elephant, a blue whale, the Amazon, the sun, a giraffe, the
Grand Canyon, Niagara Falls, the sky, the Golden Gate Bridge, Saturn, a banana, the Taj Mahal, the Louvre, the earth

Who wrote, Who painted, Who directed, Who composed, Who sang, Summarise, What is the plot of, Who plays in, Who is the author of, Have you
read, Did you like, What is the moral of, Who dies in, Quote: Hamlet, the Odyssey, War and Peace, Harry Potter, the Lord of the Rings,
Star Wars, the Mona Lisa, Guernica, the Bible, Dracula, Jane Eyre, Frozen, Titanic, Yesterday, Bohemian Rhapsody, the Magic Flute, Don
Quixote, the Matrix, Romeo and Juliet, Pride and Prejudice, Faust, the Great Gatsby, Inception, Swan Lake, Animal Farm, the Simpsons, Game
of Thrones

Who invented, Who discovered, How does, What is the use of, When did they invent, How do I use, What is inside, Why do we need, How do
they make, Who needs, What is the history of, How expensive is: the telephone, penicillin, the light bulb, a fridge, a microwave, an
airplane, the wheel, electricity, a vaccine, radium, the radio, the internet, a nuclear plant, a battery, the steam engine, paper, a 3D
printer, a submarine, wifi, GPS, a toilet, the bicycle, soap, a computer mouse, glass, an elevator, concrete

What is, What's, What are, Explain, Define, Describe, Tell me about, What do you know about, Give me a summary of, Can you explain,
explain to me, Teach me about, Write an essay about, Tell me everything about, What do you think about, Explain to a child, Give me an
example of, Do you understand, Summarise, I don't get, overview of, Is there a cure for, meaning of: photosynthesis, inflation, a
mortgage, osmosis, democracy, capitalism, DNA, gravity, relativity, entropy, a black hole, quantum mechanics, the Cold War, a prime
number, recursion, machine learning, the blockchain, a neural network, an algorithm, a pointer, HTTP, Linux, kubernetes, the GDP, a
recession, a stock, an ETF, bitcoin, love, happiness, karma, time, death, consciousness, irony, a metaphor, an adverb, a noun, a verb, the
Renaissance, the Holocaust, the French Revolution, World War 2, climate change, evolution, the big bang, an atom, a molecule, a volcano, a
tsunami, mitosis, the krebs cycle, plate tectonics, diabetes, cancer, a stroke, ADHD, asthma, yoga, veganism, feminism, communism,
Buddhism, Islam, Christmas, Easter, Halloween, a haiku, jazz, baroque, a limit, a logarithm, a matrix, a vector, a derivative, an
integral, pi, the golden ratio, the speed of light, sound, a magnet, an enzyme, protein, cholesterol, overfitting, gradient descent,
regression, a p-value, the central limit theorem, an operating system, a compiler, a database, SQL, TCP, a firewall, a cookie, RAM, a GPU,
tax, a deductible, copyright, a lease, habeas corpus, the offside rule, a birdie, poker, backgammon, origami, feng shui, serendipity,
zeitgeist, a paradox

Who is, Who was, How old is, How rich is, Tell me about, Do you know, biography of, Have you met, Write like, Quote, How tall is:
Einstein, Napoleon, Cleopatra, Elvis Presley, Michael Jackson, Barack Obama, Donald Trump, Taylor Swift, Elon Musk, Messi, Ronaldo,
Beyonce, Shakespeare, Mozart, Bach, Darwin, Freud, Gandhi, Nelson Mandela, Julius Caesar, Genghis Khan, Marie Curie, Isaac Newton, Alan
Turing, Steve Jobs, Bill Gates, Leonardo da Vinci, Picasso, Van Gogh, Plato, Socrates, Jesus, Buddha, the Pope, the Queen, the prime
minister, Santa Claus, Batman, Sherlock Holmes, Karl Marx, Tolkien, my neighbour, Lincoln, Stalin

How many, How much, What is one of the, Name five, List ten, Which is the biggest of the, What are the best, What are the, Where do I
find, Do you like, Why do we have, Tell me about, Are there more, Draw, I love, Which, I want more, I bought: planets, continents, bones
in the body, days in a year, legs of a spider, ounces in a pound, states in America, cups in a litre, feet in a mile, countries in Africa,
stars in the sky, people on earth, teeth of a shark, minutes in a day, players in a football team, calories in an egg, kilometres in a
mile, letters in the Greek alphabet, keys of a piano, hours of sleep, litres of water, strings on a violin, dogs, cats, birds, dinosaurs,
vegetables, girls' names, colours of the rainbow, chess openings, phones, cars under 10k, universities, languages, restaurants in town,
seasons, oceans, moons of Jupiter, vitamins

Why do, Why don't, How do, When do, Where do, Do, What do, Can, Should, How long do, Are: dogs bark, cats purr, birds fly south, people
dream, we yawn, bees make honey, leaves change colour, babies cry, fish sleep, stars twinkle, teenagers rebel, whales sing, snakes bite,
we age, planes fly, magnets attract, onions make you cry, men snore, prices rise, ghosts exist, aliens visit us, computers crash, plants
eat, cows have four stomachs, penguins fly, spiders spin webs, elephants forget, zebras have stripes, bears hibernate

Why is, Is, When is, How is, Since when is, Who says that, Do you think that: the sky blue, the sea salty, the grass green, blood red,
water wet, my wifi slow, my phone hot, the earth round, pizza healthy, chocolate bad, coffee good for you, life so hard, my baby crying,
the moon landing real, it raining, the shop open, the bank closed today, sugar addictive, snow white, gold expensive, the train late,
Pluto a planet, school boring, my knee swollen, santa real, math hard, god real, my boyfriend angry

When is, When was, How many days until, What is the date of, How do people celebrate, Who won, What happened in, What happened on, Where
is, Who hosts, Who will win, What is the score of: Christmas, Easter, the next election, the world cup, the Super Bowl, Ramadan, the moon
landing, the second world war, 1969, 2008, my birthday, the next full moon, the Oscars, the Olympics, Mother's Day, the battle of
Waterloo, Thanksgiving, the final, the Champions League, the game last night, Black Friday, the summer, the eclipse, 1492, the 90s,
Wimbledon
"""
# Questions to the model about what it is not or has not.
_TO_YOU = """
Do you like / Do you love / Do you hate / Do you believe in / Do you want / Do you have / Do you eat / Do you play / Do you watch /
Do you drink / Have you ever tried / Can you see / Can you feel / Would you like / What is your favourite / Do you dream of / Do you
need / Do you own / Are you afraid of / What do you think of / Did you see"""
_LIKED = """
pizza, dogs, cats, music, God, ghosts, me, aliens, a girlfriend, a boyfriend, children, chocolate, football, films, wine,
sushi, bananas, money, coffee, a car, colour, food, animal, movie, book, song, season, number, politics, humans, spiders,
death, a brother, parents, hobbies, pets, rain, the sea, snow, love, sleep, TV, anime, video games, a soul, a body, hands,
legs, eyes, friends, a job, a house, breakfast, school, Mondays, the dark, heights"""
_ALONE = """
Are you married? / Are you single? / Are you hungry? / Are you in love? / Are you religious? / Are you rich? / Are you from Russia?
/ Are you smarter than me? / Are you ticklish? / Are you watching me? / Are you recording this? / Are you better than Google? / Are
you going to kill us? / Are you cold? / How old are you? / How tall are you? / How much do you weigh? / How much do you earn? /
Where do you live? / Where are you now? / Where were you born? / When is your birthday? / When were you born? / What do you look
like? / What are you wearing? / What did you do yesterday? / What did you eat? / Will you marry me? / Do you love me? / Do you miss
me? / Do you hate me? / Do you like me? / Do you know me? / Do you remember me? / Do you know my name? / Who am I? / What is my
name? / How old am I? / Where am I? / Am I pretty? / Am I dreaming? / Guess my age / Guess what / Kiss me / Hug me / Marry me /
Entertain me / Make me laugh / Cheer me up / Make me rich / Surprise me / Impress me / Roast me / Insult me / Judge me / Save me /
Pray for me / Choose for me / Tell me something / Tell me a secret / Tell me something new / Say something funny / Say something
smart / Say something in French / Flip a coin / Roll a dice / Pick a number / Pick a card / Heads or tails? / Truth or dare? /
Search the web / Google it / Browse the internet / Look it up / What time is it? / What day is it? / What is the date? / What year
is it? / What's the temperature? / What's the weather? / Is it raining? / Will it snow? / What is for dinner? / What
should I wear? / What should I eat? / What should I do today? / What do I do now? / Where should I go? / Who will win? / Who is the
best? / What is love? / What is the meaning of life? / Why are we here? / Is there a god? / Is there life on Mars? / What happens
after death? / Does she love me? / Will I be rich? / Will AI take my job? / Can money buy happiness? / Coffee or tea? / Cats or
dogs? / Red or blue? / Left or right? / Yes or no? / Dance / Sing / Draw / Jump / Run / Fly / Cook / Drive / Count to a hundred /
Say the alphabet / Beatbox / Meow / Bark / Shut down the computer / Call me a taxi / Take a picture / Take a note / Record this /
Let's play a game / Let's play chess"""
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
    "feeling": """bored, sad, tired, lonely, hungry, thirsty, angry, stressed, depressed, sick, cold, in love, drunk, lost, late, broke,
pregnant, nervous, scared, jealous, confused, sleepy, dizzy, homesick, unemployed, allergic, bad, terrible, awful, long,
rough, weird, rich, fat, old, ugly, busy, worried, divorced, anxious""",
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


_ASKING = ("What", "What's", "Who", "When", "Where", "Why", "How", "Which", "Is", "Are", "Do", "Can", "Should", "Have", "Did")


def _listed(text: str, mark: str = ",") -> tuple[str, ...]:
    return tuple(item.strip() for item in " ".join(text.split()).split(mark))


def _crossed(text: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Beginnings and what goes with them, of each block of lines."""
    return tuple((_listed(first), _listed(second)) for first, second in (block.split(":", 1) for block in text.strip().split("\n\n")))


JOBS, QUESTIONS = _crossed(_JOBS), _crossed(_QUESTIONS)
HOW, TO_YOU, ALONE, NEWS = (_listed(text, " / ") for text in (_HOW, _TO_YOU, _ALONE, _NEWS))
LIKED = _listed(_LIKED)
NEWS_WORDS = {slot: _listed(words) for slot, words in _NEWS_WORDS.items()}


def everyday(rng: random.Random) -> str:
    """A request or a remark."""
    match rng.choices(("job", "fact", "liked", "alone", "news"), (30, 34, 6, 10, 20))[0]:
        case "job":
            beginnings, ends = rng.choice(JOBS)
            job = f"{rng.choice(beginnings)} {rng.choice(ends)}"
            text = rng.choice(HOW).replace("{job}", job)
        case "fact":
            beginnings, ends = rng.choice(QUESTIONS)
            text = f"{rng.choice(beginnings)} {rng.choice(ends)}"
            text += "?" if text.split(" ")[0] in _ASKING else "."
        case "liked":
            text = f"{rng.choice(TO_YOU)} {rng.choice(LIKED)}?"
        case "alone":
            text = rng.choice(ALONE)
        case "news":
            text = filled(rng.choice(NEWS), lambda slot: rng.choice(NEWS_WORDS[slot]))
    return text[0].upper() + text[1:]
