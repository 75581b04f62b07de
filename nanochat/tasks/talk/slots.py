"""Words of the slots in the phrasings of small talk; a word may have slots of its own."""

from __future__ import annotations

from nanochat.tasks.talk import abroad

_LISTS = {
    "oh": """
oh / ah / ok / okay / well / alright / all right / right / so / wow / hm / um / yes / yeah / yep / oh well / cool / nice / great / sure
/ no / fine / good / haha / lol / yay / ooh / aww / and / perfect""",
    "wish": """
have a nice day / have a good day / have a good one / have a great week / have a nice weekend / have a lovely evening / have a good
night / sleep well / good luck / take care / take care of yourself / all the best / best wishes / be good / be well / stay well / stay
safe / stay cool / keep it up / rest well / enjoy your day / enjoy the weekend / enjoy the sun / don't work too hard / mind how you go /
get some rest / sweet dreams / see you soon / see you then / see you tomorrow / see you on Friday / see you next month / see you at work
/ talk to you soon / talk to you later / talk tomorrow / speak to you soon / until next time / until tomorrow / till Monday / till then
/ I'll be back / I'll write again / I will return / I'll miss you / it was nice / it was fun / it was nice talking to you / nice talking
to you / nice chatting / great chat / it was a pleasure / we'll talk again / you take care / catch you soon""",
    "helped": """
that helped / that helps / it helped / that helped a lot / that answered it / that answers it / this answers everything / that explains
a lot / that explains it / you helped me / you helped a lot / you were helpful / that was kind / you are kind / so kind / I get it now /
I got it now / I understand now / now I know / now I understand / I learned a lot / I learned something / that's what I wanted / just
what I needed / exactly what I needed / that's all I needed / it worked / it works / this works / that worked / it is clear now / you
saved me / you saved my evening / that is useful / that was useful / that was quick / that is right / that was right / I am happy now /
I'm so glad / you made me happy / you did well / you do well / you're helpful / you are so helpful / a good explanation / a great
explanation / what a good answer / good to hear""",
    "hello": """
Hi / Hello / Hey / Hiya / Howdy / Greetings / Good morning / Good afternoon / Good evening / Good day / Yo / Ahoy / Hello again /
Welcome / Hi there / Hello there / Hey there / Heya / Hallo / Morning / Evening / Helloo / Hii / Hai / Hullo / Oi / Ello / Wassup / 'sup
/ G'day / Yoo / Hey ya / Hi hi / Top of the morning / Hey hey / Hola / Salutations / Well hello / Sup / Good day to you / A good morning
/ Hi again / Hey again / Howdy-do / Henlo / Yello / Afternoon / Hello hello / Hi everyone / Greetings and salutations / Howdy doody /
Hiya there / Heyo / Hey yo / Ay up / Good morrow / Good to meet you / Hello hi / Hi hello / Ahoy there / Aloha / Hi ya / Hey-hey /
Morning all / Good noon / Happy Monday / Happy new year / Merry Christmas / What's good / Sup dude / Wazzup / Hey what's up / Alright /
Hail / Bonjour / Knock knock / Mornin' / Evenin' / Hellooo / Hey sup / Hi and welcome / Good evening again / Pleased to meet you / Nice
to meet you / Good to see you / Long time no see / Hey, long time / Peekaboo / Beep boop / Rise and shine / G'morning / Gday mate""",
    "you": """
MegaContext / there / you / friend / my friend / model / computer / bot / robot / assistant / everybody / all / pal / machine / AI / to
you / again / little model / old friend / world / dear / program / sir / mate / chat / partner / buddy / dude / bro / folks / guys /
team / everyone / man / stranger / madam / fella / champ / boss / my dear / thing / y'all / anyone / cutie / little one / kind machine /
good sir / gentlemen / ladies / lads / people / class / darling / honey / sweetie / love / sunshine / captain / professor / doc / kiddo
/ amigo / comrade / sweet robot / old chap / cousin / neighbour / young lady / young man / lovely / fellow / master / genius / brain /
dear robot / chatbot / clanker / Mega / gang / crew / mister / miss / ma'am / assistant of mine / computer friend / homie / fam / cuz /
chief / beautiful / smarty / human or machine / whoever you are / whoever is there / thingy / big guy / Mr Robot / helper / language
model / tiny AI / kids / fellas / peeps / all of you / in there / over there / from me""",
    "intro": """
I am here / nice to meet you / pleased to meet you / I have a question / can I ask you something? / let us begin / I am a new user / it
is me again / I want to talk / let's chat / good to see you / I am back / I am {name} / my name is {name} / it's {name} / this is {name}
/ {name} here / I'm {name} from {place} / call me {name} / {name} from {place} / greetings from {place} / I am from {place} / I live in
{place} / I'm a {job} / I am a {job} from {place} / I work as a {job} / just a {job} / I just woke up / just got home / I am at work / I
am on the train / I am on the bus / I'm in class / on my lunch break / coffee time / I'm waiting for a friend / it is early / it is late
here / long day / it's a lovely day / nice day / beautiful morning / sunny today / it's Friday / rainy day today / new here / first time
using this / never used this before / I just found you / a friend told me about you / I want to try you / let's talk / wanna chat? / can
we talk? / got a minute? / do you have a moment? / may I ask you something? / I have some questions for you / just testing / just saying
hi / just checking in / just looking around / nothing special / good to have you / glad to meet you / happy to be here / I am happy to
see you / I missed you / here I am / it's me / guess who / remember me? / I'm back again / back from holiday / we meet again / let's get
started / ready when you are / shall we begin? / long time no talk / how nice that you are here / I heard about you / testing testing /
one two three / waking up here / before my shift / after work / from the office / from the kitchen / from the lab / from my phone / on
night duty / with a cup of tea / I hope I'm not disturbing / quick hello / only a hello / hello from {place}""",
    "there": """
is anyone there? / are you there? / is this on? / do you hear me? / are you awake? / are you listening? / who is there? / anybody home?
/ is anybody in? / does this work? / testing / are you up? / anyone around? / hello? / knock knock / you there? / can you hear me? / are
you online? / is someone here? / are you ready? / do you read me? / is it working? / is somebody there? / is someone in? / anyone in? /
hello anyone? / anyone listening? / anyone alive? / who's there? / are you around? / are you still there? / still there? / you still
here? / do you work? / do you read this? / can you read me? / can you read this? / can you see this? / are you working? / is this
working? / is it on? / is the mic on? / wake up / wake up please / are you asleep? / are you alive in there? / test / test test / a test
/ this is a test / one two / check check / mic check / may I come in? / can I come in? / is this the assistant? / is this the chat? / am
I connected? / did it connect? / you up? / you awake? / u there? / somebody home? / nobody home? / pick up / are we live? / got your
ears on? / ready? / shall we start? / hello?? / hey? / anybody? / anyone? / somebody?""",
    "how": """
How are you? / how are you / how are you doing? / how is it going? / what's up? / how do you feel? / how are things? / how goes it? /
how was your day? / how have you been? / how are you feeling? / how do you do? / how is life? / how is your day? / how are u / how's
everything? / how are you holding up? / what's new? / what is going on? / what's happening? / how's life treating you? / how are you
these days? / how ya doing? / you OK? / are you OK? / how's tricks? / what are you up to? / how are you, my friend? / how have things
been? / que tal? / ça va? / wie geht's? / come va? / como vai? / kak dela? / how do you feel today? / whassup? / how is your mood? / how
goes? / wazzup / how's it hanging? / how's it goin / how's your morning? / how's your evening? / how was your night? / how was your
weekend? / how's your week been? / did you have a good day? / had a good day? / good day so far? / everything OK? / everything good? /
all good? / all well? / you alright? / you all right there? / alright mate? / you doing OK? / are you doing well? / doing well? / doing
good? / how are you keeping? / how do you fare? / how fares it? / how is the world treating you? / how are you getting on? / how's work?
/ how's the family? / how is your health? / in what mood are you? / are you having a good time? / are you having fun? / are you enjoying
yourself? / how's your head? / how are you this evening? / how are you tonight? / how u doing / how r ya / hru / wyd / what's cooking? /
what's the word? / what's crackin / what is new with you? / anything new? / any news from you? / what have you been up to? / what's on
your mind? / what are you thinking? / what are you doing? / whatcha doing? / sleep well? / did you rest? / do you feel OK? / do you feel
good? / feeling good? / feeling well? / feeling better? / how do you find yourself? / como estas? / comment ça va? / wie geht es dir? /
come stai? / tudo bem? / hoe gaat het met je? / hvordan går det? / jak się masz? / как дела? / genki desu ka / nasılsın / ni hao ma /
hur mår du?""",
    "today": """
today / today? / this morning? / these days? / now? / tonight? / right now / this evening? / this week? / at the moment? / lately? / so
far? / this fine day? / on this rainy day? / tonight, dear? / my friend? / old friend? / buddy? / mate? / then? / over there?""",
    "well": """
well / fine / OK / all right / good / happy / sad / tired / in a good mood / bored / angry / ready / content / busy / sleepy / okay /
lonely / sick / nervous / excited / in good health / in good spirits / comfortable / rested / glad / hungry for work / upset / doing
fine / doing OK / having a good day / cheerful / stressed / calm / in love with life / up and running / fit / cold in there / feeling
fine / feeling good / feeling blue / having fun / worn out / fine with that / always happy""",
    "thanks": """
thanks / Thanks / Thank you / thank you / many thanks / Thx / thank you all / cheers / I thank you / thanx / much obliged / ta / tyvm /
tysm / thank ya / thanks so much / much appreciated / thankyou / thnx / appreciated / cheers for that / thanks heaps / thanks a bunch /
thanks a ton / big thanks / a thousand thanks / tks / my thanks / I am grateful / bless you / thank u / thanks you / thks / thanks mate
/ thanks friend / thanks again / many many thanks / thanks loads / thanks kindly / thank you kindly / thanks ever so much / thank you
very much indeed / thank you sincerely / I can't thank you enough / thanks for everything / thanks for your time / thanks for the help /
thanks for explaining / thanks for answering / thanks for the info / thank you for trying / so thankful / very grateful / I owe you / I
owe you one / you saved my day / you made my day / hats off / kudos / props / respect / God bless / bless / gramercy / chrs / thxx / ty
so much / tyy / ty / thx a million / 10x / nice, ty / okay thanks / OK thank you / thanks though / thanks anyway / lots of thanks / warm
thanks / sincere thanks / all my thanks / muchas thanks / my gratitude / with gratitude / that's very kind / so kind of you / how kind /
kind of you / very kind / you're kind / you are so sweet""",
    "much": """
a lot / very much / so much / for your help / for that / again / for everything / a million / for the answer / for now / really / indeed
/ kindly / for explaining / for your time / for your patience / for the quick reply / for the info / for the chat / for nothing / from
all of us / from {place} / from my heart / from me / my friend / dear / buddy / robot / mate / man / loads / heaps / for helping / for
helping me out / for being here / for today / anyway / ever so much / sincerely / and have a good day / for being so nice / you too /
for the tip / for that one""",
    "praise": """
great / good job / well done / perfect / nice / cool / wonderful / very good / awesome / correct / right / good / helpful / excellent /
fine / super / nice work / very helpful / amazing / that is right / brilliant / good answer / you rock / you are the best / love it / I
like it / that is useful / that was quick / impressive / neat / sweet / good bot / clever / spot on / exactly / wow, nice / bravo / very
useful / lovely / what a great answer / that is what I needed / fantastic / superb / splendid / marvellous / stunning / magnificent /
terrific / outstanding / great stuff / good stuff / nice one / good one / great work / excellent work / great answer / nice answer /
fine answer / the best / well said / well explained / clearly put / that works / it works now / works for me / that did it / that does
it / that solved it / problem solved / that was it / that's it exactly / that is perfect / that makes it clear / now it is clear / all
clear now / that was easy / so helpful / really helpful / most helpful / handy / informative / beautiful / gorgeous / cool stuff / dope
/ sick / lit / rad / ace / top / top notch / first class / magic / genius / smart / so smart / you're smart / you are clever / you're
awesome / you're great / you are amazing / you're good / you're a star / you're a legend / legend / champion / good robot / clever
machine / I'm impressed / I am so happy / I love it / love that / like it / glad I asked / you nailed it / nailed it / bingo / yay /
hooray / woohoo / yes! / cheers / A+ / ten out of ten / five stars / thumbs up / perfecto / very well / that was kind / that was fun /
that was fast / so quick / wow""",
    "bye": """
Bye / Goodbye / Bye bye / See you / Good night / Farewell / So long / Take care / Ciao / See you later / Talk to you later / bye-bye /
Until tomorrow / See you tomorrow / Have a nice day / Cheerio / Later / Good bye / I must go now / See ya / Cya / Peace out / Catch you
later / Ttyl / Laters / Night night / Sleep well / Till next time / Have a good one / Have a great evening / Bye for now / Over and out
/ Toodle-oo / See you around / See you soon / So long then / Be well / Good bye now / Fare thee well / Bye now / Signing off / Later
then / Ta-ta / Nighty night / Cheers, bye / Byee / Enjoy your day / All the best / Adieu / Until we meet again / Bye then / Bye all /
Bye everyone / Bye love / Bye-ee / Bai / Baii / Byeee / Buh-bye / Tata / Toodles / Toodle pip / Pip pip / Cheers then / See you next
time / See you next week / See you Monday / See you on Monday / See you in the morning / See ya later / See ya soon / See ya around / Cu
/ Cul8r / L8r / Talk soon / Talk later / Talk to you soon / Talk tomorrow / Speak soon / Speak later / Chat later / Chat soon / Catch
you tomorrow / Catch ya / Have a good day / Have a good night / Have a good week / Have a great day / Have a lovely evening / Have a
nice evening / Have a nice weekend / Have fun / Enjoy / Enjoy your evening / Good night all / Gn / Nite / Nighty / Night / Night all /
Sweet dreams / Sleep tight / Rest well / Stay safe / Stay well / Keep well / Take it easy / Take care now / Godspeed / Safe travels /
Until later / Until next week / Until then / Till tomorrow / Till later / Ciao for now / Ciao ciao / Hasta la vista / Auf Wiedersehen /
Sayonara / Au revoir / Peace / Peace be with you / Out / Over / Logging off / Logging out / I'm leaving now / And goodbye / Goodbye for
now / Goodbye forever / A very good night / Parting is sorrow / Later gator / See you later alligator / Smell ya later / So, goodbye /
Well, goodbye / Fare well / Farewell then / Adios amigo""",
    "leaving": """
I have to go / gotta go / gtg / g2g / I am off / I'm done / that's it / that's all / that is it for today / that is all I need / I need
to leave / I have to run / time to go / time for bed / I am going home / I'm out / we can stop here / let us stop here / I will be back
/ brb / I am going to sleep / I have no more questions / no more questions / nothing else / stop / end / close / I should get going /
that will be all / I am leaving now / off to work / off to bed / I must leave / I have to log off / end of chat / it is late / time to
sleep / let us end this / that was all for today / enough for today / I am finished / I have a train to catch / my bus is here / my
{who} is calling / dinner is ready / lunch is ready / my break is over / break's over / class is starting / meeting starts / my meeting
is now / I'm late for work / I'm late / work calls / duty calls / back to work / back to my desk / back to bed / back to the {job} life
/ I must be off / I must be going / I'd better go / I better get going / I should leave / I should sleep / I need sleep / I need to
sleep / I'm sleepy, off I go / I am heading home / heading out / heading home / headed to bed / going to bed / going home now / going
offline / off I go / I'm off to {place} / I'm off to lunch / off to school / off to the gym / must dash / must run / must fly / got to
run / gotta run / gotta bounce / gotta jet / gotta sleep / gtg bye / time's up / time to leave / time for dinner / time for work / it's
getting late / it is past midnight / we are finished / we're done here / I am done for today / done for now / all done / that's
everything / that's all for now / that is everything I need / that was everything / nothing more / no more for today / that's enough /
enough for now / enough / let's call it a day / calling it a day / let's stop / let us finish here / I will stop here / end the chat /
end the session / end chat / end of session / close the chat / close session / quit now / log out / logout / shut down / terminate /
abort / exit now / leave / finish / I'm going / I go now / I leave now / I'm outta here / I am away / I will come back later / I'll be
back / be right back / back later / see you when I'm back / my battery is dying / my phone is dying / I'm going to the shop / I have to
pick up the kids / I have to catch a plane / I have to feed the cat / I have to cook / I need to study now / I need to get back to work
/ the {job} needs me / going now""",
    "then": """
then / later / tomorrow / for today / and thanks / and thank you / until next time / everyone / and good luck / again / for tonight / my
friend / sweet robot / have fun / take care / love / and good night / see you / for ever / now / dear / and sleep well / till Monday /
and stay safe / next week / in the morning / soon""",
    "made": """
made / built / created / trained / developed / written / programmed / designed / coded / invented""",
    "team": """
company / team / person / group / lab / people / firm / university / programmer / human""",
    "author": """
author / maker / creator / developer / owner / inventor / father / boss / designer / programmer / trainer""",
    "memory": """
memory / long memory / context / MegaContext / history / Working Context / tree of gists""",
    "name": """
Anna / Ben / Carlos / Dina / Emma / Farid / Greta / Hans / Ivan / Jamal / Kenji / Laura / Mohammed / Nina / Olga / Pedro / Quinn / Rosa
/ Sven / Tariq / Uma / Victor / Wei / Xenia / Yusuf / Zoe / Alice / Bob / Chloe / David / Elena / Frank / Grace / Hiro / Ines / Jack /
Kate / Liam / Maria / Noah / Olivia / Paul / Rita / Sam / Tina / Vera / Will / Yuki / Aisha / Bruno / Clara / Dmitri / Fatima / George /
Helen / Igor / Julia / Kofi / Lena / Marco / Nadia / Oscar / Priya / Raj / Sofia / Tomas / Wanda / Abdul / Britta / Chen / Eva / Giulia
/ Ingrid / Jorge / Karl / Linh / Mike / Pierre / Sara / Steve / Joe / Jenny / Max / Lucy / Dave / Pat / Chris / Alex / Mr Smith / Mrs
Brown / Dr Lee""",
    "place": """
Spain / Norway / India / Brazil / Texas / Rome / Oslo / Cairo / Japan / Poland / Kenya / Peru / Berlin / London / Paris / New York /
Canada / Mexico / Chile / Vietnam / Turkey / Greece / Lagos / Ghana / Korea / China / Dublin / Scotland / Wales / Ohio / Vienna / Prague
/ Lisbon / Madrid / Tokyo / Sydney / Iceland / Sweden / Italy / Ireland / the moon / the office / the mountains / the north / the south
/ the train / my bed / school / down under / upstairs / the hospital / the farm / the night shift / sunny California / rainy England / a
small village""",
    "job": """
teacher / nurse / farmer / student / doctor / pilot / baker / driver / cook / lawyer / painter / plumber / tester / developer /
journalist / sailor / grandmother / grandfather / mother of two / father / kid / scientist / musician / barber / waiter / accountant /
engineer / beginner / tourist / librarian / soldier / singer / gardener / carpenter / electrician / hunter / monk / pirate / gamer /
manager / guard / chemist / dentist / trucker / fan of yours / new user / curious person / linguist / reviewer / retired teacher /
firefighter / policeman / coach / poet / butcher / mechanic""",
    "who": """
mother / wife / husband / boss / dog / cat / son / daughter / friend / teacher / taxi / neighbour / brother / sister / dad / mum /
client / baby / girlfriend / boyfriend / doctor / team""",
    "being": """
a human / a person / a man / a woman / a boy / a girl / a real human / a human being / a living being / somebody real / someone / an
alien / a ghost / a guy / a lady / a real boy / an employee / an operator / a live agent / flesh and blood / a child / an animal / a
machine / a computer / a program / a script / a chatbot / a bot / a robot / an android / an AI / some AI / a language model / an LLM / a
neural network / a piece of software / an app / an algorithm / a virtual assistant / an assistant / a search engine / a simulation / a
supercomputer / a toy / a website / a talking computer / artificial intelligence / ChatGPT / GPT / GPT-4 / Siri / Alexa / Claude /
Gemini / Bard / Copilot / Llama / Cortana / Google / a version of GPT / like ChatGPT / something like Siri / Skynet / HAL / OpenAI""",
    "abilities": """
abilities / skills / features / functions / talents / commands / capabilities / limits / options / strengths / weaknesses / uses /
tricks / powers / tasks / use cases / services / modes / topics / possibilities / specialities / tools / limitations / subjects / fields
/ areas / offers / actions""",
    "do_for": """
do / do for me / do for us / do here / do today / do best / help with / help me with / help us with / assist with / assist me with /
offer / offer me / answer / solve / teach me / show me / tell me / handle / manage / provide / support / accomplish / be asked / be used
for / help a {job} with / do for a {job} / do that is useful / do well / actually do / really do / even do / do now""",
    "help_me": """
help me / help / help us / assist me / be useful / be of use / be of service / support me / serve me / make my life easier / help a
{job} / be useful to a {job} / help me today / help me right now / give me a hand / do something for me""",
    "purpose": """
purpose / point / role / function / use / job / task / goal / mission / aim / business / expertise / speciality / field""",
    "ask": """
ask / ask you / type / type here / say / say to you / ask for / try / write / enter / do with you / do with this / use you for / use
this for / request / expect from you / talk about with you / tell you to do""",
    "this_bot": """
this bot / this chatbot / this AI / this model / this assistant / this thing / this program / this machine / this app / the assistant /
the bot / this tool / this computer""",
    "tell_me": """
tell me / Say / State / Give me / Please tell me / Could you tell me / Can you tell me / May I know / May I ask / I want to know / I'd
like to know / What's / What is / Remind me of / Do tell me / Reveal / Spill / Let me know / Will you tell me / Type / Show""",
}  # fmt: skip
WORDS: dict[str, tuple[str, ...]] = {
    **{slot: tuple(word.strip() for word in " ".join(words.split()).split(" / ")) for slot, words in _LISTS.items()},
    "hola": abroad.HELLO, "merci": abroad.THANKS, "adieu": abroad.BYE,
}  # fmt: skip
