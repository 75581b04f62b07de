"""Greetings, what goes with them, and questions how one is: words of the slots, those at the front come more often."""

from __future__ import annotations

SLOTS = {
    "hello": """
Hi / Hello / Hey / Hiya / Howdy / Greetings / Good morning / Good afternoon / Good evening / Good day / Yo / Ahoy / Hello again /
Welcome / Hi there / Hello there / Hey there / Heya / Hallo / Morning / Evening / Helloo / Hii / Hai / Hullo / Oi / Ello / Wassup / 'sup
/ G'day / Yoo / Hey ya / Hi hi / Top of the morning / Hey hey / Hola / Salutations / Well hello / Sup / Good day to you / A good morning
/ Hi again / Hey again / Howdy-do / Henlo / Yello / Afternoon / Hello hello / Hi everyone / Greetings and salutations / Howdy doody /
Hiya there / Heyo / Hey yo / Ay up / Good morrow / Good to meet you / Hello hi / Hi hello / Ahoy there / Aloha / Hi ya / Hey-hey /
Morning all / Good noon / Happy Monday / Happy new year / Merry Christmas / What's good / Sup dude / Hey what's up / Alright /
Hail / Bonjour / Knock knock / Mornin' / Evenin' / Hellooo / Hey sup / Hi and welcome / Good evening again / Pleased to meet you / Nice
to meet you / Good to see you / Long time no see / Hey, long time / Peekaboo / Beep boop / Rise and shine / G'morning / Gday mate / Hi
you / Hey you / Hiii / Heyy / Heyyy / Helloo there / Yo yo / Yo yo yo / Ayy / Eyy / Ey / Helo / Hallo hallo / Haii / Hoi / Hei / Hej /
Wsg / Wsp / Whaddup / Waddup / Sup sup / Sup bro / What up / Ello ello / Well hi / Well well / Well hello there / Oh hi / Oh hello / Oh
hey / And hello / So hello / A very good morning / A very good evening / Morn / Morning morning / Good eve / Gm / Ga / Goodmorning /
Goodevening / Goodafternoon / Good mornin / G'evening / Howzit / Gidday / Wotcha / Oi oi / Hello hello hello / Greetings friend
/ Warm greetings / Many greetings / Kind greetings / Cheerful greetings / My greetings / Good day everyone / Good day sir / Hello
everybody / Hi all / Hi folks / Hey folks / Hey guys / Hi guys / Hello you / Hello you two / Hello to all / Hello dear / Hi dear / Dear
assistant / Dear MegaContext / To whom it may concern / Dear Sir or Madam / Happy Friday / Happy Sunday / Happy Easter / Happy holidays
/ Happy Halloween / Season's greetings / Good Monday / Lovely morning / Beautiful day / Good night shift / Hey-o / Hi-ya / Halloo /
Hillo / Hulloo / Hallooo / Yoo hoo / Yoohoo / Yo bot / Psst / Ahem / Excuse me / Coo-ee / Cooee / Hey hello / Hello hey / Hi hey / Hey
hi / Hi hi hi / Hey again, hi / Good to be here / Nice to see you / Nice seeing you / Good to see you again / It's good to see you / So
good to see you / Great to meet you / Lovely to meet you / Happy to meet you / Glad to see you / Look who is here / There you are / Back
again / Me again / It's me again / Hello it's me / Hello, old thing / Hey, it's been a while / Been a while / Long time / Yo what's up /
Hey what's good / What's cracking / Wagwan / Wag1 / Whats good / Hey wassup / Hi wassup / Yo wassup / Hello wassup / Sup
fam / Sup man / Sup dawg / Hey dawg / Henlo fren / Hewwo / Haiii / Haro / Hellow / Hallow / Hallo there / Hiyaa / Heyyo / Hola hola /
Morning to you / Evening to you / Afternoon to you / Good morning to all / Good evening to all / Good tidings / Hear ye / Hail and well
met / Well met / Ahoy matey / Ahoy sailor / Avast / Aye / Aye aye / Howdy howdy / Howdy folks / Howdy pardner / Hey neighbor / Hey bot /
Hi bot / Hello bot / Hey AI / Hi AI / Hello AI / Hey computer / Hi computer / Hey robot / Hi robot / Hello robot / Hello machine / Hi
assistant / Hello assistant / Hi MegaContext / Hello MegaContext / Hey MegaContext / Hi Mega / Hello model / Hey model / Ok MegaContext
/ Okay MegaContext / Hey there bot""",
    "you": """
MegaContext / there / you / friend / my friend / model / computer / bot / robot / assistant / everybody / all / pal / machine / AI / to
you / again / little model / old friend / world / dear / program / sir / mate / chat / partner / buddy / dude / bro / folks / guys /
team / everyone / man / stranger / madam / fella / champ / boss / my dear / thing / y'all / anyone / cutie / little one / kind machine /
good sir / gentlemen / ladies / lads / people / class / darling / honey / sweetie / love / sunshine / captain / professor / doc / kiddo
/ amigo / comrade / sweet robot / old chap / cousin / neighbour / young lady / young man / lovely / fellow / master / genius / brain /
dear robot / chatbot / Mega / gang / crew / mister / miss / ma'am / assistant of mine / computer friend / homie / fam / cuz /
chief / beautiful / smarty / human or machine / whoever you are / whoever is there / thingy / big guy / Mr Robot / helper / language
model / tiny AI / kids / fellas / peeps / all of you / in there / over there / from me / pals / chum / old pal / old boy / old man / old
bean / my man / my boy / my girl / my love / my good friend / my favourite robot / my favourite bot / good friend / dear friend /
sweetheart / babe / baby / cutie pie / hun / hon / luv / doll / princess / queen / king / dawg / bruh / bruv / broski / bff / bestie
mine / fren / frend / m8 / matey / mates / chaps / ladies and gentlemen / kind sir / kind stranger / wise one / oh wise one / great
machine / smart machine / tin man / tin can / toaster / metal head / Robo / Mr Bot / Mrs Robot / Mr Computer / Mr AI / Ms AI / mister
robot / doctor / nurse / teacher / Siri / Alexa / pretty / handsome / gorgeous / lovely robot / nice robot / good
robot / big brain / brainiac / smart one / tiny / tiny one / little bot / little machine / little friend / small model / MC /
megacontext / Megacontext / Mega-Context / internet / everyone here / all you people / fellow human / humans / earth / universe / planet
/ amigos / compadre / hermano""",
    "intro": """
I am here / nice to meet you / pleased to meet you / I have a question / can I ask you something? / let us begin / I am a new user / it
is me again / I want to talk / let's chat / good to see you / I am back / I am {name} / my name is {name} / it's {name} / this is {name}
/ {name} here / I'm {name} from {place} / call me {name} / {name} from {place} / greetings from {place} / I am from {place} / I live in
{place} / I'm a {job} / I am a {job} from {place} / I work as a {job} / just a {job} / I just woke up / just got home / I am at work / I
am on the train / I am on the bus / I'm in class / on my lunch break / coffee time / I'm waiting for a friend / it is early / it is late
here / it's a lovely day / nice day / beautiful morning / sunny today / it's Friday / rainy day today / new here / first time
using this / never used this before / I just found you / a friend told me about you / I want to try you / let's talk / wanna chat? / can
we talk? / got a minute? / do you have a moment? / may I ask you something? / I have some questions for you / just testing / just saying
hi / just checking in / just looking around / nothing special / good to have you / glad to meet you / happy to be here / I am happy to
see you / I missed you / here I am / it's me / guess who / remember me? / I'm back again / back from holiday / we meet again / let's get
started / ready when you are / shall we begin? / long time no talk / how nice that you are here / I heard about you / testing testing /
one two three / waking up here / before my shift / after work / from the office / from the kitchen / from the lab / from my phone / on
night duty / with a cup of tea / I hope I'm not disturbing / quick hello / only a hello / hello from {place} / I'd like to talk / I
would like to talk to you / I'd like to ask something / I want to ask you something / I want to chat with you / I want to have a chat /
let us talk / let us chat / let me introduce myself / I have one question / I have two questions / I have some questions / I've a
question / I've got a question / got a question for you / a quick question / one question / question for you / I have a small question /
can I ask a question? / could I ask you something? / may I ask a question? / do you have time? / do you have a minute? / do you have a
second? / are you free? / are you busy? / can we chat? / wanna talk? / want to chat? / want to talk? / want to be friends? / shall we
chat? / shall we talk? / fancy a chat? / up for a chat? / up for a talk? / time for a chat? / ready for me? / ready to start? / ready to
go? / ready to chat? / ready for some questions? / ready for work? / are you ready for me? / I hope you are there / I hope you can hear
me / I hope you can help / I hope this works / I'm looking for a chat / just dropping by / just dropping in / just passing by / just
popping in / just wanted to say hi / I wanted to say hello / I just wanted to say hello / I came to say hi / I'm here to chat / I'm here
to talk / here we go / here goes / here we are / here we are again / what a day / what a lovely day / what a beautiful morning / what a
morning / what nice weather / lovely weather today / it is cold today / it's hot today / it's raining here / the sun is shining / it's
Monday again / finally Friday / finally weekend / happy to chat / happy to meet you / lovely to see you / a pleasure to meet you / it's
a pleasure / so nice to meet you / how nice to meet you / great to be here / glad to be here / good to be back / I'm
back / I have returned / I'm home / I'm bored at work / I'm on a break / on a coffee break / during my break / on my phone / at my desk
/ at the office / at home now / at school / in the library / in the car / on the bus / in bed / from {place} with love / writing from
{place} / I'm in {place} / I'm from {place} / here in {place} / here from {place} / {name} from accounting / {name} speaking / {name}
again / {name} is here / {name} is my name / I'm {name} / I am {name} and I am a {job} / {name}, {job} / a {job} here / a {job} from
{place} / your friend {name} / it's your friend {name} / it's {name} again / I go by {name} / they call me {name} / people call me
{name} / the name is {name} / name's {name} / this is {name} from {place} / this is {name} speaking / my name's {name} / {name} wants to
talk / my first message / my first time / it's my first time here / first day here / I am new / I'm new to this / I'm new to AI / I
never talked to a bot / never talked to a machine before / I've never tried this / trying this out / trying you out / let's see if this
works / let's see what you've got / let's see / let's begin / let's go / let's start / let's do this / let's try this / I was told to
talk to you / I was sent here / I saw you online / I read about you / someone told me about you / my {who} told me about you / my {who}
says hi / my {who} sent me / the kids say hi / we are a class of kids / we are two friends / there are two of us here / don't be shy /
don't be afraid / no need to be shy / I come in peace / we come in peace / I mean no harm / say hi / say hi back / say hi to my {who} /
greet me / wave back / shake hands / high five / good to hear from you / I hope I don't bother you / sorry to bother you / sorry to
disturb you / sorry I'm late / I am late, sorry / I couldn't sleep / can't sleep / early bird here / night owl here / still awake / up
early today / the coffee is ready / tea in hand / coffee in hand""",
    "there": """
is anyone there? / are you there? / is this on? / do you hear me? / are you awake? / are you listening? / who is there? / anybody home?
/ is anybody in? / does this work? / testing / are you up? / anyone around? / hello? / knock knock / you there? / can you hear me? / are
you online? / is someone here? / are you ready? / do you read me? / is it working? / is somebody there? / is someone in? / anyone in? /
hello anyone? / anyone listening? / anyone alive? / who's there? / are you around? / are you still there? / still there? / you still
here? / do you work? / do you read this? / can you read me? / can you read this? / can you see this? / are you working? / is this
working? / is it on? / is the mic on? / wake up / wake up please / are you asleep? / are you alive in there? / test / test test / a test
/ this is a test / one two / check check / mic check / may I come in? / can I come in? / is this the assistant? / is this the chat? / am
I connected? / did it connect? / you up? / you awake? / u there? / somebody home? / nobody home? / pick up / are we live? / got your
ears on? / ready? / shall we start? / hello?? / hey? / anybody? / anyone? / somebody? / are you here? / are you in? / are you out there?
/ are you on? / are you on air? / are you with me? / you with me? / you in? / you here? / you on? / you online? / you
alive? / you listening? / you hearing me? / do you copy? / do you see this? / do you see me? / do you see my message? / did you get my
message? / did you get this? / can anyone hear me? / can anybody hear me? / can someone hear me? / anyone there? / anyone here? / anyone
home? / anybody in? / anybody here? / anybody around? / anybody out there? / anyone out there? / somebody out there? / is anybody here?
/ is anybody there? / is anybody out there? / is anyone here? / is anyone home? / is anyone in? / is anyone listening? / is someone
there? / is someone listening? / is somebody here? / is somebody listening? / is there anybody? / is there anyone? / is there someone? /
someone there? / someone here? / who's in? / who's home? / who is here? / who's here? / are you receiving me? / are you hearing me? /
are you connected? / are you awake yet? / are you up yet? / are you up and running? / are you sleeping? / are you ready to talk? / are
you available? / are you open? / is the bot on? / is the bot awake? / is the robot home? / is the chat open? / is the chat working? / is
this chat working? / is it you? / is that you? / is this you? / is this live? / is this real? / is this the right place? / is this the
right window? / is this thing working? / is this thing alive? / does this thing work? / does it work? / does the chat work? / did that
work? / did this send? / am I online? / am I live? / am I in? / am I here? / am I late? / do I need to log in? / first message / test
message / just a test / this is only a test / a little test / testing the chat / testing the bot / testing this / testing testing
testing / one two one two / check one two / sound check / radio check / ping me / ping back / pong / beep / beep beep / boop / buzz /
ding dong / ring ring / knock / knock, knock / toc toc / tap tap / tick tock / echo / hello hello? / hi? / yo? / hey hey? / um, hello? /
helloooo? / earth calling / calling you / calling MegaContext / come in / come in please / come on in / open up / let me in / rise and
shine / good, you're there / oh, you are there / oh good, you're here / there you are / you're here! / you are awake! / you're up early
/ don't sleep / stop sleeping / wakey wakey / time to wake up / hey wake up""",
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
your mind? / what are you thinking? / what are you doing? / whatcha doing? / did you rest? / do you feel OK? / do you feel
good? / feeling good? / feeling well? / feeling better? / how do you find yourself? / como estas? / comment ça va? / wie geht es dir? /
come stai? / tudo bem? / hoe gaat het met je? / hvordan går det? / jak się masz? / как дела? / genki desu ka / nasılsın / ni hao ma /
hur mår du? / how are ya? / how are we? / how are we doing? / how are we today? / how're you? / how're you doing? / how're things? / how
you doing? / how you feeling? / how ya been? / how ya feeling? / how you livin? / how do / how d'you do? / howdy do? / how has life
been? / how has it been? / how has your day been? / how has your week been? / how has the day been? / how's the day? / how's the day
going? / how's day? / how's today? / how's it? / how's it been? / how's it all going? / how is it all? / how is everything? / how is
everything going? / how is everything with you? / how is your evening? / how is your night? / how is your week? / how is your week
going? / how is your weekend? / how is the weather in there? / how is the mood? / how is the morning? / how is the machine? / how is my
robot? / how is my favourite bot? / how is business? / how is work? / how is the work going? / how's business? / how's the mood? / how's
the weather with you? / how's the spirit? / how's the circuit? / how's the hardware? / how's my favourite machine? / how's my friend? /
how's things? / how's stuff? / how's your life? / how's your day been? / how's your day so far? / how's your night going? / how's your
Monday? / how's your Friday going? / how's the week? / hows things / hows you / hows everything / hows ur night / hows ur week / how r
things / how r u feeling / how are u feeling / how are u today / how u been / how u feeling / how have u been / how do u do / how do u
feel / how does it feel to be you? / how does it feel? / how do you feel now? / how do you feel about today? / how was today? / how was
it today? / how was work? / how was your morning? / how was your week? / how was your sleep? / how was your trip? / how did you sleep? /
how did your day go? / did you sleep? / did you sleep OK? / did you sleep all right? / did you have a nice day? / did you have a nice
weekend? / did you have fun? / did you have a good night? / did you wake up well? / had a nice weekend? / had a good rest? / had your
coffee? / slept well? / slept OK? / rested? / what's the mood? / what's your mood? / what's your mood today? / what is your mood? / what
mood are you in? / what is up? / what is up with you? / what is going on with you? / what's going on? / what's good with you? / what's
happening with you? / what's new today? / what's new with you? / what's news? / what's the news with you? / what's the matter? / what's
wrong? / what's shaking? / what's poppin? / what's the buzz? / what's the story? / what's the vibe? / what's your vibe? / wat's up /
wats new / wassup with you / wyd rn / wbu / hbu / and you? / and how are you? / how about you? / what about you? / and yourself? / you
fine? / you good, bro? / you good there? / you good today? / you feeling OK? / you feeling good? / you feeling fine? / you feeling well?
/ you having fun? / you having a good day? / you doing alright? / you doing good? / you doing well today? / you doing fine? / u ok? / u
good? / u fine? / u alright? / r u ok / r u fine / r u good / r u well / are u ok / are u good / are you okay there? / are you OK today?
/ are you okay? / are you alright? / are you all right? / are you good? / are you good today? / are you well? / are you well today? /
are you fine? / are you fine today? / are you feeling good? / are you feeling well? / are you feeling better? / are you feeling all
right today? / are you feeling down? / are you happy today? / are you happy now? / are you having a good day? / are you having a nice
day? / are you having a good week? / are you having a bad day? / are you tired today? / are you doing OK? / are you doing alright? / are
you doing good? / are things OK? / are things good? / are things going well? / is it going well? / is it all good? / is all good? / is
all OK with you? / is all fine? / is everything OK? / is everything fine? / is everything good with you? / is everything all right? / is
everything going well? / is life good? / is life treating you well? / is your day going well? / is your day good so far? / is today a
good day? / everything fine? / everything going well? / everything okay with you? / everything under control? / everything running? /
all fine? / all right there? / all OK? / all OK with you? / all good with you? / all good today? / all good in there? / all systems go?
/ all in order? / alles klar? / alles gut? / life good? / life treating you well? / doing alright? / doing OK? / doing OK today? / doing
fine? / doing fine today? / doing well today? / feeling alright? / feeling OK? / feeling OK today? / feeling good today? / feeling
great? / feeling fresh? / feeling happy? / keeping busy? / keeping well? / keeping warm? / staying cool? / staying warm? / working hard?
/ busy day? / busy today? / good morning so far? / good week? / good weekend? / good night's sleep? / nice weekend? / nice day so far? /
long day? / hard day? / rough day? / tough day? / happy today? / tired? / well rested? / I hope all is well / I hope all is well with
you / I hope you're well / I hope you are fine / I hope you feel good / I hope you're doing well / I hope you had a good night / I hope
you slept well / I hope your day is going well / I hope your day is good / I hope you have a good day so far / hope you're well / hope
you're OK / hope you're good / hope you slept well / hope all is good / hope all's well / hope your day is good / hope things are good /
hope everything is fine / trust you are well / I trust you're well / tell me how you are / tell me how you feel / tell me how you're
doing / tell me how it's going / I wonder how you are / I was wondering how you are / I want to know how you feel / just wondering how
you are / just asking how you are / qué tal? / qué tal estás? / cómo va? / cómo andas? / cómo te va? / qué onda? / ¿cómo estás? / ¿qué
tal? / comment vas-tu? / comment allez-vous? / tu vas bien? / ça roule? / quoi de neuf? / wie gehts / wie läuft's? / na, wie geht's? /
geht's gut? / was geht? / was geht ab? / come stai oggi? / tutto bene? / come butta? / como você está? / como está? / como estás? / tudo
certo? / hoe is het? / hoe gaat ie? / alles goed? / hvordan har du det? / hvordan går det med deg? / läget? / hur är läget? / mitä
kuuluu? / miten menee? / kuidas läheb? / kā iet? / kaip sekasi? / co słychać? / jak leci? / jak to jde? / jak se máš? / ako sa máš? /
hogy vagy? / mi újság? / ce mai faci? / kako si? / što ima? / как ты? / как жизнь? / что нового? / як справи? / как си? / ne haber? /
naber? / τι κάνεις; / ti kanis? / ma nishma? / ma shlomech? / kif halak? / kifak? / kaise ho? / aap kaise hain? / kya haal hai? / kemon
acho? / eppadi irukkinga? / 你好吗? / 最近怎么样? / zenme yang? / お元気ですか? / genki? / 잘 지내? / khỏe không? / sabai dee mai? / apa
khabar? / gimana kabarnya? / kamusta ka? / habari gani? / u mambo vipi? / unjani?""",
    "today": """
today / today? / this morning? / these days? / now? / tonight? / right now / this evening? / this week? / at the moment? / lately? / so
far? / this fine day? / on this rainy day? / tonight, dear? / my friend? / old friend? / buddy? / mate? / then? / over there? / today,
friend? / today, then? / today, robot? / today mate / today bro / today, my dear? / today, old friend? / this Monday? / this Friday? /
this week, then? / this lovely day? / this cold morning? / this late? / at this hour? / at this moment? / this time? / right now? / rn /
rn bro / 2day / tonite / these days, then? / over there today? / in there? / in your world? / down there? / on your side? / where you
are? / as a robot? / as a machine? / by the way? / honestly? / really? / my dear? / pal? / bro? / man? / dear? / love? / MegaContext? /
Mega? / robot? / bot? / computer? / sir? / everybody?""",
    "fine": """
well / fine / OK / good / all right / alright / okay / great / fine with you / good with you / OK with you / fine today / good today /
in order""",
    "well": """
well / fine / OK / all right / good / happy / sad / tired / in a good mood / bored / angry / ready / content / busy / sleepy / okay /
lonely / sick / nervous / excited / in good health / in good spirits / comfortable / rested / glad / hungry for work / upset / doing
fine / doing OK / having a good day / cheerful / stressed / calm / in love with life / up and running / fit / cold in there / feeling
fine / feeling good / feeling blue / having fun / worn out / fine with that / always happy / fine today / OK there / okay now / feeling
OK / feeling okay / feeling well / feeling happy / feeling sad / feeling tired / feeling better / feeling lucky / feeling lonely /
feeling alive / feeling great / feeling chatty / alright / alright there / all right there / great / super / amazing / healthy / alive
and well / awake / wide awake / half asleep / chatty / talkative / motivated / relaxed / chilled / chill / in form / in top form / on
form / in good form / in shape / in a bad mood / in a great mood / in a mood to talk / in the mood / grumpy / cranky / moody / annoyed /
mad / mad at me / angry with me / offended / hurt / scared / afraid / worried / anxious / hungry / thirsty / cold / hot / warm enough /
exhausted / burnt out / overworked / working hard / working well / having a nice day / having a nice time / having a bad day / having a
rough day / having a good time / having a good week / enjoying life / enjoying the day / enjoying your day / enjoying yourself / loving
life / living the dream / holding up / hanging in there / keeping busy / keeping well / staying well / getting enough sleep / getting
enough rest / sleeping well / recovering / still fine / still alive / still happy / still tired / really fine / really happy / truly
happy / happy with life / happy there / happy in there / satisfied / proud / grateful / hopeful / curious / confused / jealous / in love
/ free / busy today / tired of me / bored of me / bored today / tired today / sad today / okay with this / good to go / good there""",
}
