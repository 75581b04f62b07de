"""Words of the slots in the phrasings of small talk; a word may have slots of its own."""

from __future__ import annotations

from nanochat.tasks.talk import abroad, farewells, gratitude, greetings

_LISTS = {
    "oh": """
oh / ah / ok / okay / well / alright / all right / right / so / wow / hm / um / yes / yeah / yep / oh well / cool / nice / great / sure
/ no / fine / good / haha / lol / yay / ooh / aww / and / perfect / ooo / oof / oho / aha / ahh / ohh / hmm / hmmm / mhm / mm / uh / uhm
/ eh / er / erm / ha / haha ok / hehe / heh / lmao / omg / wow ok / wow cool / whoa / woah / yup / yess / ok ok / okok / okey / okey
dokey / okie / okie dokie / oki / k / kk / alrighty / alright then / all right then / right then / well then / well ok / well well / oh
ok / oh okay / oh I see / oh wow / oh nice / oh good / oh cool / ah ok / ah okay / ah I see / ah well / ah yes / I see / I see now / got
it / understood / gotcha / sweet / neat / super / lovely / brilliant / wonderful / awesome / excellent / amazing / not bad / fair enough
/ makes sense / true / anyway / anyways / so then / now / hey / hi / no no / yes yes / yes yes yes / of course / sounds good / very well
/ thank god / finally / good good / nice nice / there we go / there you go / interesting / sorry / but""",
    "made": """
made / built / created / trained / developed / written / programmed / designed / coded / invented / put together / brought to life /
engineered / coded up / constructed / assembled / produced / released / launched / published / founded / set up / raised / taught /
shaped / crafted / tuned / fine-tuned""",
    "team": """
company / team / person / group / lab / people / firm / university / programmer / human / startup / corporation / organisation /
organization / institute / research group / college / school / country / nation / city / family / man / woman / crew / developers /
engineers / scientists / researchers / students / individual / club / community / developer / scientist / researcher / engineer / lab or
company""",
    "author": """
author / maker / creator / developer / owner / inventor / father / boss / designer / programmer / trainer / coder / engineer / builder /
parent / mother / mum / dad / mom / teacher / master / manager / founder / producer / company / team / god / origin / engineer in chief
/ chief / employer / vendor / provider / manufacturer / architect""",
    "memory": """
memory / long memory / context / MegaContext / history / Working Context / tree of gists / memory system / memory tree / memory of this
chat / short memory / long-term memory / short-term memory / context window / memories / tree / long history / long context / big memory
/ remembering / past / recall""",
    "name": """
Anna / Ben / Carlos / Dina / Emma / Farid / Greta / Hans / Ivan / Jamal / Kenji / Laura / Mohammed / Nina / Olga / Pedro / Quinn / Rosa
/ Sven / Tariq / Uma / Victor / Wei / Xenia / Yusuf / Zoe / Alice / Bob / Chloe / David / Elena / Frank / Grace / Hiro / Ines / Jack /
Kate / Liam / Maria / Noah / Olivia / Paul / Rita / Sam / Tina / Vera / Will / Yuki / Aisha / Bruno / Clara / Dmitri / Fatima / George /
Helen / Igor / Julia / Kofi / Lena / Marco / Nadia / Oscar / Priya / Raj / Sofia / Tomas / Wanda / Abdul / Britta / Chen / Eva / Giulia
/ Ingrid / Jorge / Karl / Linh / Mike / Pierre / Sara / Steve / Joe / Jenny / Max / Lucy / Dave / Pat / Chris / Alex / Mr Smith / Mrs
Brown / Dr Lee / Adam / Aaron / Ada / Agnes / Ahmed / Akira / Albert / Alan / Amara / Amir / Amy / Ana / Andre / Andrea / Andy / Angela
/ Anika / Anton / Arjun / Arthur / Ayse / Beatrice / Bella / Bernd / Beth / Bill / Björn / Brian / Camille / Carla / Caroline / Cathy /
Celine / Charlie / Christine / Cindy / Claire / Claude / Connor / Daisy / Dan / Daniel / Daniela / Dario / Deepak / Denise / Diego /
Dora / Dylan / Eddie / Edith / Elias / Elif / Ella / Ellen / Elsa / Emil / Emily / Eric / Erik / Esther / Ethan / Eugene / Ewa / Fabio /
Felix / Fiona / Florence / Francesca / Fred / Frida / Gabriel / Gary / Gina / Gloria / Gordon / Gustav / Hannah / Harry / Hassan / Heidi
/ Henry / Holly / Hugo / Ian / Ibrahim / Ida / Imran / Irene / Isabel / Jacob / Jakub / James / Jan / Jane / Janet / Jason / Jean / Jim
/ Joan / Johan / John / Johnny / Jonas / Josef / Joseph / Juan / Judy / Kai / Karen / Katya / Kelly / Kevin / Khalid / Klaus / Krishna /
Larry / Lars / Leila / Leo / Lily / Lisa / Louis / Luca / Luis / Luke / Magda / Manuel / Marc / Margaret / Marie / Mark / Martha /
Martin / Mary / Mateo / Matt / Mei / Mia / Michael / Miguel / Mila / Mina / Ming / Miriam / Molly / Monica / Nancy / Natasha / Nick /
Nicole / Niko / Nora / Omar / Otto / Pablo / Patrick / Peter / Petra / Phil / Pia / Rachel / Ravi / Rebecca / Richard / Robert / Rohan /
Ron / Rose / Roy / Ruth / Ryan / Sally / Samir / Sandra / Sanjay / Sarah / Sean / Selma / Simon / Sophie / Stefan / Stella / Susan /
Tanya / Ted / Teresa / Theo / Tim / Toby / Tom / Tony / Valentina / Vikram / Violet / Walter / Wendy / William / Xavier / Yara / Yasmin
/ Youssef / Yusra / Zack / Zainab / Zara / Mr Jones / Mrs Miller / Miss Lopez / Dr Singh / Uncle Bob / Grandma Rose / Professor Kim""",
    "place": """
Spain / Norway / India / Brazil / Texas / Rome / Oslo / Cairo / Japan / Poland / Kenya / Peru / Berlin / London / Paris / New York /
Canada / Mexico / Chile / Vietnam / Turkey / Greece / Lagos / Ghana / Korea / China / Dublin / Scotland / Wales / Ohio / Vienna / Prague
/ Lisbon / Madrid / Tokyo / Sydney / Iceland / Sweden / Italy / Ireland / the moon / the office / the mountains / the north / the south
/ the train / my bed / school / down under / upstairs / the hospital / the farm / the night shift / sunny California / rainy England / a
small village / Alaska / Argentina / Athens / Austria / Bali / Barcelona / Belgium / Bogota / Boston / Bremen / Brighton / Brussels /
Budapest / California / Cape Town / Chicago / Colombia / Copenhagen / Croatia / Cuba / Dallas / Delhi / Denmark / Denver / Dubai /
Edinburgh / Egypt / Estonia / Finland / Florence / Florida / France / Geneva / Germany / Glasgow / Hamburg / Hawaii / Helsinki / Hong
Kong / Houston / Hungary / Indonesia / Iran / Israel / Istanbul / Jakarta / Jamaica / Jordan / Kansas / Kiev / Kyoto / Latvia / Lebanon
/ Leeds / Lima / LA / Malaysia / Manila / Melbourne / Miami / Milan / Montreal / Morocco / Moscow / Mumbai / Munich / Nairobi / Naples /
Nepal / New Delhi / New Zealand / Nigeria / NYC / Osaka / Pakistan / Perth / Philadelphia / Portland / Portugal / Quebec / Romania /
Russia / San Francisco / Santiago / Seattle / Seoul / Serbia / Shanghai / Singapore / Slovakia / South Africa / Stockholm / Switzerland
/ Syria / Taiwan / Thailand / Toronto / Tunis / Uganda / Ukraine / Utah / Venice / Warsaw / Zurich / the beach / the bus / the city /
the coast / the countryside / the desert / the garden / the gym / the hills / the hotel / the islands / the kitchen / the lab / the lake
/ the library / the other side of the world / the other side / the park / the past / the future / the sea / the ship / the shop / the
suburbs / the west coast / work / my car / my desk / my sofa / my tent / a boat / a cafe / a plane / a pub / a rainy island / space""",
    "job": """
teacher / nurse / farmer / student / doctor / pilot / baker / driver / cook / lawyer / painter / plumber / tester / developer /
journalist / sailor / grandmother / grandfather / mother of two / father / kid / scientist / musician / barber / waiter / accountant /
engineer / beginner / tourist / librarian / soldier / singer / gardener / carpenter / electrician / hunter / monk / pirate / gamer /
manager / guard / chemist / dentist / trucker / fan of yours / new user / curious person / linguist / reviewer / retired teacher /
firefighter / policeman / coach / poet / butcher / mechanic / architect / artist / astronaut / bank clerk / biker / biologist / bus
driver / butler / cashier / chef / cleaner / clerk / clown / consultant / cyclist / dad / dad of three / dancer / data scientist /
delivery driver / designer / detective / diver / editor / fisherman / florist / gamer girl / geologist / girl of ten / boy of nine /
hairdresser / historian / hotel clerk / IT guy / janitor / judge / kindergarten teacher / lifeguard / magician / maths teacher / midwife
/ miner / model / mum / mum of four / night nurse / night owl / optician / paramedic / parent / PhD student / philosopher / photographer
/ physicist / postman / priest / producer / professor / programmer / psychologist / railway man / receptionist / researcher / salesman /
secretary / security guard / shepherd / shop assistant / skipper / social worker / statistician / student of law / surfer / surgeon /
tailor / taxi driver / translator / truck driver / tutor / vet / volunteer / web developer / welder / writer / zookeeper""",
    "who": """
mother / wife / husband / boss / dog / cat / son / daughter / friend / teacher / taxi / neighbour / brother / sister / dad / mum /
client / baby / girlfriend / boyfriend / doctor / team / aunt / uncle / grandson / granddaughter / grandma / grandpa / niece / nephew /
cousin / kids / roommate / flatmate / partner / fiancé / colleague / coworker / manager / coach / landlord / dentist / nurse /
neighbours / parents / family / puppy / kitten / horse / parrot / customer / guests / driver / mom / mommy / class / dance partner /
better half / twin / chef""",
    "being": """
a human / a person / a man / a woman / a boy / a girl / a real human / a human being / a living being / somebody real / someone / an
alien / a ghost / a guy / a lady / a real boy / an employee / an operator / a live agent / flesh and blood / a child / an animal / a
machine / a computer / a program / a script / a chatbot / a bot / a robot / an android / an AI / some AI / a language model / an LLM / a
neural network / a piece of software / an app / an algorithm / a virtual assistant / an assistant / a search engine / a simulation / a
supercomputer / a toy / a website / a talking computer / artificial intelligence / ChatGPT / GPT / GPT-4 / Siri / Alexa / Claude /
Gemini / Bard / Copilot / Llama / Cortana / Google / a version of GPT / like ChatGPT / something like Siri / Skynet / HAL / OpenAI / a
real person / an actual person / an actual human / a human operator / a human agent / a living person / a living thing / a live person /
a live human / a support agent / a customer service agent / a call centre / a volunteer / a student / a teenager / a kid / an old man /
a woman or a man / a he or a she / a boy or a girl / a girl or a guy / male / female / human / alive / real / fake / artificial /
natural / virtual / digital / mechanical / electronic / made up / a fake / a fake person / a real thing / a real AI / a true AI / a
smart AI / a small AI / a weak AI / an AGI / an AI bot / an AI model / an AI assistant / an AI chatbot / an artificial mind / an
artificial being / a talking robot / a real robot / a robot voice / a bot account / a bot or human / a chat program / a computer voice /
a computer brain / a dumb bot / a smart bot / a mind / a brain in a jar / a spirit / a demon / a god / a wizard / a genie / an angel /
an elf / a dog / a cat / a parrot / a fish / an insect / a cyborg / a terminator / a hologram / a droid / R2D2 / a calculator / a clock
/ a server / a device / a gadget / a phone / a tablet / an engine / a big machine / a box of wires / a bunch of wires / a pile of code /
just code / just math / just software / software / hardware / a web page / a web service / a cloud service / an API / an expert system /
a database / a dictionary / an encyclopedia / Wikipedia / an answering machine / an automatic reply / an autocomplete / a Markov chain /
a transformer or a person / a chat model / a big model / a small language model / a large language model / a small model / an open model
/ a neural net / a deep network / a statistical model / a GPT / GPT-5 / Claude or GPT / DeepSeek / Mistral / Qwen / Grok / Bing / Watson
/ Eliza / Clippy / Jarvis / Bixby / a kind of Alexa / a copy of ChatGPT / a clone of ChatGPT / related to ChatGPT / the same as ChatGPT
/ better than a search engine / something like a robot / something like a person / something artificial / something alive / somebody /
anybody / nobody / one person or many / one of us / one of them / from this planet""",
    "abilities": """
abilities / skills / features / functions / talents / commands / capabilities / limits / options / strengths / weaknesses / uses /
tricks / powers / tasks / use cases / services / modes / topics / possibilities / specialities / tools / limitations / subjects / fields
/ areas / offers / actions / gifts / strong points / weak points / good sides / qualities / qualifications / duties / responsibilities /
functions and limits / main features / main skills / best features / special skills / special powers / superpowers / hidden features /
commands and options / settings / instructions / examples / sample questions / usage examples / things you can do / things you know /
games / topics and skills / areas of knowledge / subjects you know / fields of expertise / hobbies and skills / main functions / key
features / basic skills / known limits / capabilities and limits""",
    "do_for": """
do / do for me / do for us / do here / do today / do best / help with / help me with / help us with / assist with / assist me with /
offer / offer me / answer / solve / teach me / show me / tell me / handle / manage / provide / support / accomplish / be asked / be used
for / help a {job} with / do for a {job} / do that is useful / do well / actually do / really do / even do / do now / do for my {who} /
do for a living / do all day / do exactly / do right now / do in general / do without internet / do with words / do with numbers / do
with letters / do with text / do with my homework / do better than others / do besides talking / do other than chat / do, apart from
this / do to help / do to help me / do to make my day / do to make my life easier / help people with / help my {who} with / help out
with / help a {job} do / be useful for / be good for / be trusted with / talk about / answer for me / answer best / explain / explain to
me / tell us / show / show us / teach / teach my {who} / give me / give / assist people with / take care of / work on / work out /
figure out / make / make for me / solve for me / process / understand / deal with / perform / execute / run / compute / suggest I do
with you""",
    "help_me": """
help me / help / help us / assist me / be useful / be of use / be of service / support me / serve me / make my life easier / help a
{job} / be useful to a {job} / help me today / help me right now / give me a hand / do something for me / help me out / help out / help
a bit / help us out / help me a bit / help me with something / help me with anything / help me in my work / help me at work / help me at
school / help me in class / help me in my day / help me with my day / help me tonight / help me this evening / help my {who} / help my
team / help our company / help people / help somebody like me / help someone / help students / help with work / help with school / be
helpful / be helpful to me / be any help / be of any help / be of help to a {job} / be of assistance / be of some use / be a help / be
good for me / be useful to me / be useful at work / be useful in class / be useful to anyone / assist / assist us / assist a {job} /
assist my {who} / assist with anything / support us / support my team / serve us / serve a {job} / make yourself useful / make my day
easier / make my work easier / save me time / ease my day / lend a hand / lend me a hand / offer any help / offer some help""",
    "purpose": """
purpose / point / role / function / use / job / task / goal / mission / aim / business / expertise / speciality / field / purpose in
life / aim in life / mission in life / main purpose / main job / main task / main function / main use / real purpose / whole point /
whole purpose / intended use / raison d'être / assignment / calling / design goal / duty / intention / line of work / occupation /
profession / reason to exist / reason to be here / usefulness / value / strength / special talent / superpower / day job / deal here""",
    "ask": """
ask / ask you / type / type here / say / say to you / ask for / try / write / enter / do with you / do with this / use you for / use
this for / request / expect from you / talk about with you / tell you to do / ask first / ask about / ask now / ask for first / ask for
here / ask for from you / ask this thing / ask the bot / ask an AI / ask a bot like you / inquire about / question you about / do first
/ do here / do now / do next / do in this chat / do with a bot / do with an AI / do with this bot / do with it / type in / type now /
type first / type to you / put in here / put here / enter here / enter first / write here / write to you / write first / say here / say
now / say first / say next / say to start / try first / try here / try with you / try out / get from you / want from you / need from you
/ have you do / let you do / make you do / tell you / order you to do / command you to do / use it for / use this bot for / use this
chat for / start with / begin with / request here / request from you / chat about / discuss with you / learn from you / talk to you
about / talk about""",
    "this_bot": """
this bot / this chatbot / this AI / this model / this assistant / this thing / this program / this machine / this app / the assistant /
the bot / this tool / this computer / this system / this robot / this website / this page / this software / this service / this chat /
this project of yours / this terminal / this window / the robot / the AI / the model / the chat / the system / the program / the machine
/ the software / your system / your software / it / the whole thing / a bot like you / a model like you""",
    "tell_me": """
tell me / Say / State / Give me / Please tell me / Could you tell me / Can you tell me / May I know / May I ask / I want to know / I'd
like to know / What's / What is / Remind me of / Do tell me / Reveal / Spill / Let me know / Will you tell me / Type / Show / I would
like to hear / I'd love to know / I'd love to hear / I'm curious about / I am asking for / I ask for / I need / I need to know / I must
know / I forgot / I forget / I don't know / I still don't know / I didn't catch / I did not get / Please state / Please say / Please
give / Please give me / Please write / Just tell me / Just say / So tell me / Now tell me / Come on, tell me / Kindly tell me / Kindly
give me / Can I know / Can I get / Can I have / Can I ask / Could I know / Could I have / Could I ask / Might I ask / May I have / May I
hear / Would you tell me / Would you share / Would you mind telling me / Will you share / Won't you tell me / Share / Share with me /
Drop / Disclose / Confirm / Repeat / Spell out / Print / Output / Write down / Wat is / Whats / Wats""",
}  # fmt: skip
_ALL = {**_LISTS, **greetings.SLOTS, **gratitude.SLOTS, **farewells.SLOTS}
WORDS: dict[str, tuple[str, ...]] = {
    **{slot: tuple(word.strip() for word in " ".join(words.split()).split(" / ")) for slot, words in _ALL.items()},
    "hola": abroad.HELLO, "merci": abroad.THANKS, "adieu": abroad.BYE,
}  # fmt: skip
