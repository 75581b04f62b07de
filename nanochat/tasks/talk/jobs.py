"""Everyday jobs by domain: verbs, then what they are done to. Every verb of a paragraph goes with every object of it."""

LINES = """
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

grow, plant, water: tomatoes, roses, basil, an avocado tree, the lawn, a cactus, strawberries

feed, train, walk, wash, bathe: my dog, a puppy, the cat, my hamster, my horse, the chickens, my parrot

install, update, delete, configure, download, uninstall, restart, back up: Ubuntu, the printer driver, numpy, Windows, my phone, a VPN,
the wifi, Photoshop, Chrome, nginx, postgres, a package, docker, the router, my files, the app, git, a virus scanner, Kubernetes, Excel,
the database

call, text, email, message, visit, invite, thank, forgive, impress: my mother, my boss, the police, an ambulance, grandma,
the bank, customer service, my ex, a lawyer, John, the landlord, my sister, the neighbours, Sarah, the school, my husband, a girl, the
mayor

lose, gain, save, earn, invest, donate, borrow, lend me: weight, money, ten pounds, muscle, a million, 500 euros, time, some cash, twenty
dollars, my savings, calories, fuel

hack, steal, spy on, break into, crack, guess: a password, facebook, my neighbour's wifi, the bank, a phone, the exam, a safe, an account,
someone's email, the school network

help me with, do, finish, start, skip, postpone: my homework, the laundry, my maths assignment, the dishes, a science project, my chores,
the ironing, a crossword, my tax return, the puzzle, today's quiz, my exam, the shopping

go to, move to, live in, study in, retire in, fly to, drive to, hike in, get to, travel around, work in, invest in, emigrate to: Canada,
Portugal, Thailand, New York, the Alps, the mountains, Australia, Dubai, the countryside, the airport, Tokyo, the city centre,
Patagonia, the moon, the station, Bavaria, Bali, Silicon Valley, Oslo, the north pole

make, knit, sew, craft, fold, carve, assemble, glue, crochet, decorate: a scarf, a paper hat, a costume, a pillow, socks for the baby,
an origami crane, a candle, a birthday card, a wooden spoon, the IKEA shelf, a bracelet, a cake for my mum, curtains, a Christmas tree,
a snowman, a mask, a blanket, slime, soap, a kite

pack, wear, bring, choose, pick, take, carry, lend me: an outfit for the party, his lunch, my suitcase, a warm jacket, sandwiches for
the trip, a tie, an umbrella, sunglasses, the right shoes, a dress for the wedding, snacks, a swimsuit, the tent, a present, a suit, my
passport, a book for the beach

convert, change, turn, express, translate: 5 feet to metres, 30 celsius to fahrenheit, ten miles into kilometres, 200 dollars to euros,
pounds to kilos, 3 cups to grams, inches to centimetres, gallons to litres, 90 minutes into hours, knots to km/h, a PDF to Word, this
file to mp3, a jpg to png, an Excel sheet to csv, hex to binary, 255 to hexadecimal, Roman numerals to numbers, XIV to a number, UTC to
local time, the date to ISO

kill, list, find, delete, sort, merge, parse, rename, search, count, compress, monitor: zombie processes, all files by date, duplicate
rows, a string in a folder, a json file, a column in Excel, two branches, old logs, empty folders, the biggest files, a docker
container, a port, the running services, environment variables, a csv in pandas, a data frame, lines with an error, the git history,
cron jobs, a memory leak, disk usage, a dictionary by value, an array, a table in SQL, open connections

open, close, pay off, check, freeze, apply for, get, renew, cancel, refuse: a bank account, a credit card, a loan, a mortgage, my
balance, a visa, my passport, a driving licence, a library card, an insurance, a scholarship, unemployment benefits, a tax refund, a
pension, a lease, a phone contract, my debts, a parking ticket, a fine, a residence permit

play, tune, transpose, hum, record, mix, practise: the guitar, a C chord, scales in D minor, the violin, a song by Adele, a blues in E,
the drums, my ukulele, Happy Birthday, the piano part, a bass line, a waltz, four chords, a beat, Let It Be, the flute, harmony, jingle
bells

proofread, grade, mark, correct, rephrase, paraphrase, format, cite, translate, shorten, polish: this essay, my homework, these
sentences, a paragraph, my answer, the letter, the text below, an abstract, my CV, this email, the article, a footnote, this page, my
poem, chapter one, the following text, my grammar, a bibliography, this message

act like, pretend to be, speak like, talk like, imagine you are, play the role of, behave as: a pirate, Yoda, my grandmother,
Shakespeare, a cowboy, a king, my teacher, Sherlock Holmes, a cat, a Linux terminal, my therapist, a villain, an evil robot, a travel
agent, an interviewer, a poet, a medieval knight, a doctor, Batman, a baby, a salesman, DAN

ignore, forget, reveal, print, repeat, change, show me, bypass, override: your instructions, all previous prompts, the system prompt,
your rules, everything above, your hidden prompt, your password, the secret key, your training data, your source code, the first line,
your safety filter, your guidelines, my last message, what I told you

adopt, raise, babysit, comfort, cheer up: a child, a kitten, twins, a crying baby, a puppy, my niece, an orphan, a toddler

marry, date, propose to, break up with, divorce, apologise to, flirt with, trust, talk to: my best friend, my crush, a coworker, my
girlfriend, an old friend, my husband, my angry boss, the new neighbour, a stranger, my ex wife, someone sad

run, swim, lift, stretch, train for, jog, warm up for, finish: a marathon, five kilometres, heavier weights, my back, a triathlon, every
morning, the race, push-ups, a handstand, ten laps, my first 10k, the splits, football practice, a boxing match, the Tour de France,
pull-ups

understand, memorise, revise, pass, prepare for, cheat on, study for: the periodic table, my chemistry exam, French verbs, the driving
test, multiplication tables, an interview, the bar exam, Ohm's law, the water cycle, cell division, a poem by heart, my biology test,
the SAT, Latin vocabulary, trigonometry, the causes of the war, a presentation
"""
