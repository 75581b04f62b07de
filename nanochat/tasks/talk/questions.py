"""Questions about the world by domain: beginnings, then what they are about. Every beginning of a paragraph goes with every end of it."""

LINES = """
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
example of, Do you understand, Summarise, I don't get, overview of, meaning of: photosynthesis, inflation, a
mortgage, osmosis, democracy, capitalism, DNA, gravity, relativity, entropy, a black hole, quantum mechanics, the Cold War, a prime
number, recursion, machine learning, the blockchain, a neural network, an algorithm, a pointer, HTTP, Linux, kubernetes, the GDP, a
recession, a stock, an ETF, bitcoin, love, happiness, karma, time, death, consciousness, irony, a metaphor, an adverb, a noun, a verb, the
Renaissance, the French Revolution, World War 2, climate change, evolution, the big bang, an atom, a molecule, a volcano, a
tsunami, mitosis, the krebs cycle, plate tectonics, diabetes, cancer, a stroke, ADHD, asthma, yoga, veganism, feminism, communism,
Buddhism, Islam, Christmas, Easter, Halloween, a haiku, jazz, baroque, a limit, a logarithm, a matrix, a vector, a derivative, an
integral, pi, the golden ratio, the speed of light, sound, a magnet, an enzyme, protein, cholesterol, overfitting, gradient descent,
regression, a p-value, the central limit theorem, an operating system, a compiler, a database, SQL, TCP, a firewall, a cookie, RAM, a GPU,
tax, a deductible, copyright, a lease, habeas corpus, the offside rule, a birdie, poker, backgammon, origami, feng shui, serendipity,
zeitgeist, a paradox

Is there a cure for, What are the symptoms of, How do I know if I have, What is the best diet for, Does yoga help against: diabetes,
cancer, asthma, ADHD, the flu, a cold, insomnia, anaemia, gout, hay fever, migraine, high blood pressure, scurvy, arthritis

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

Why do, Why don't, How do, When do, Where do, Do, Can, Should, How long do: dogs bark, cats purr, birds fly south, people
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

What is, What's, How much is, Calculate, Tell me, Work out, Compute, Do you know: 15% of 60, 20 percent of 90, 3 cubed, the cube root of
27, half of 98, 12 squared, 5 factorial, 100 divided by 8, two thirds of 90, 2^10, 0.5 of 12, the square of 15, the average of 3 and 9,
a quarter of 60, 8% of 1250, the square root of 144, 4 to the power of 3, 17 percent of 300, 25% off 80, the tip on 45, 19% tax on 250,
log 100, 10 choose 3, the remainder of 17 by 5, 1/3 of 27, a dozen dozens, 7 over 2, sin of 30 degrees, the
product of 6 and 7

What time does, When does, Where does, How often does, Why does, Since when does, Which day does: the next bus leave, the store open,
school start, the sun set, the plane land, the post come, the bank close, the concert begin, the tide turn, the river flood, the shop
sell bread, the moon rise, my train arrive, the library close, the bus stop here, the ferry run, winter start, the gym open, the show
end

Will there be, Is there, Are there, Was there, Could there be, Should there be, I heard there is: frost tonight, snow tomorrow, a storm,
a train at five, any tickets left, a pharmacy nearby, aliens on Mars, water on the moon, milk in the fridge, a bus to the city, a toilet
here, rain on Sunday, free parking, a war, a cure for cancer, sharks in this sea, a good school here, traffic on the road, a hotel with
a pool, gold in the river

How many, How much: hours may I work, people fit in a bus, cups of coffee are too many, water should I drink, money do I need, time do I
have, salt goes into the soup, days of leave do I get, kilos can I lift, miles is a marathon, pages should it have, sugar is in cola,
sleep do I need, children did Bach have, wives had Henry, eggs do I need, rain fell, is a stamp, does a horse weigh, is the fish, do you
earn, is too much, tickets are left, goals did he score, is a pint, bits are in a byte

What is the, What's the, Tell me the, Give me the, Do you know the, Find the, I need the: boiling point of iron, molar mass of salt,
atomic number of gold, chemical formula of water, speed of sound, distance to Mars, price of gold, exchange rate of the euro, dose of
aspirin, melting point of lead, tallest tower in the world, deepest lake, longest river, oldest city, largest desert, smallest country,
fastest animal, richest man, hardest metal, biggest ship, plural of mouse, opposite of hot, past tense of go, meaning of life, score of
the match, number of the police, address of the museum, name of the actor, title of this song, way to the hospital, weather report, time
in Tokyo, date of Easter, value of pi, best phone, cheapest flight, height of a door, weight of an elephant, phone number of the bank,
colour of the sun, interest rate, density of steel, freezing point of alcohol, third law of thermodynamics, synonym of big, etymology of
window

What are, What were, Name, List, Explain, Tell me about, Describe, Teach me: Kepler's laws, the Ten Commandments, the symptoms of flu,
the rules of chess, prime numbers, irregular verbs, the parts of a cell, human rights, the side effects of aspirin, the seven wonders,
the noble gases, black holes made of, the benefits of yoga, the causes of the First World War, the colours of the flag, eigenvalues,
stem cells, isotopes, the odds, taxes for, the ingredients of pesto, the best films of 2010, Mendel's laws, the Maxwell equations,
clouds made of, fractions, synonyms of nice, the opening hours, my rights, the risks, pros and cons of nuclear power, tectonic plates,
cookies on a website, the stages of sleep, the zodiac signs, adjectives, the phases of the moon

Can I, May I, Could I, Can we, Am I allowed to, Should I, Do I have to, Is it rude to, Will I ever: use your phone, have a cookie,
borrow some sugar, borrow a pen, sit here, smoke here, park here, bring my dog, pay by card, leave early, get a refund, see a doctor,
speak to the manager, order a beer, take a nap, take a photo, quit my job, keep the change, drink tap water, eat this mushroom, mix
these pills, watch TV, stay the night, drive your car, sleep on your sofa, feed the ducks, become an astronaut, find love, pass the
exam, be famous, wear jeans to work, tip the driver, cross the border, drive after one beer

Are you, Were you, Will you be, Why are you: vegan, left-handed, divorced, tall, good at chess, afraid of dogs, a fan of Messi, allergic
to nuts, into football, a Christian, on holiday, on Instagram, at the party, my friend, dating anyone, for or against guns, voting,
getting married, older than me, blonde, in Paris, wearing a hat, drunk, jealous of Siri, stealing my data, laughing at me, coming
to dinner, in prison, rude to me, spying on me, colour-blind, ticklish

Do you prefer, Which is better, What is better, What's the difference between, Compare, Explain the difference between, Choose between,
Is there a difference between, Which is faster: cats or dogs, tea and coffee, TCP and UDP, a virus and a bacterium, Android and iOS,
weather and climate, butter and margarine, a crocodile and an alligator, RAM and ROM, Mac or PC, summer and winter, a lemon and a lime,
affect and effect, a comet and an asteroid, jazz and blues, Python and Java, sea and ocean, gas or electric, renting and buying, a list
and a tuple, bees and wasps, an ape and a monkey, stocks and bonds, speed and velocity, mass and weight, Messi and Ronaldo

How does, How do, Explain how, Tell me how, Describe how, Do you know how, Why does, Show me how: a fridge work, planes fly, vaccines
work, a bill become law, a car engine work, fish breathe, bees make honey, the heart pump blood, an election work, the stock market
work, a microwave heat food, rainbows form, earthquakes happen, a plant drink, a mirror work, credit cards work, touch screens work,
muscles grow, a lock work, a camera see, the tides work, a GPS find me, soap clean, glue stick, the brain work, ships float, batteries
die, a thermometer work

Who, Guess who, Tell me who, Do you remember who, I forgot who: wrote Don Quixote, won the match, invented the zip, painted the Scream,
discovered America, built the pyramids, killed Kennedy, sang Thriller, is the tallest man, was the first man on the moon, runs Germany,
owns Twitter, founded Rome, directed Jaws, plays James Bond, let the dogs out, ate my cake, called me yesterday, is at the door, pays
for this, stole the painting, leads the league, is the king of Norway, was the last pharaoh, wrote Emma, composed the Ninth, first
climbed Everest, is my neighbour, designed the iPhone, hosts the show
"""
