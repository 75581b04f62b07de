"""Thanks and praise: words of the slots, those at the front come more often."""

from __future__ import annotations

SLOTS = {
    "thanks": """
thanks / Thanks / Thank you / thank you / many thanks / Thx / thank you all / cheers / I thank you / thanx / much obliged / ta / tyvm /
tysm / thank ya / thanks so much / much appreciated / thankyou / thnx / appreciated / cheers for that / thanks heaps / thanks a bunch /
thanks a ton / big thanks / a thousand thanks / tks / my thanks / I am grateful / bless you / thank u / thanks you / thks / thanks mate
/ thanks friend / thanks again / many many thanks / thanks loads / thanks kindly / thank you kindly / thanks ever so much / thank you
very much indeed / thank you sincerely / I can't thank you enough / thanks for everything / thanks for your time / thanks for the help /
thanks for explaining / thanks for answering / thanks for the info / thank you for trying / so thankful / very grateful / I owe you / I
owe you one / you saved my day / you made my day / hats off / kudos / props / respect / bless / gramercy / chrs / thxx / ty
so much / tyy / ty / thx a million / 10x / nice, ty / okay thanks / OK thank you / thanks though / thanks anyway / lots of thanks / warm
thanks / sincere thanks / all my thanks / muchas thanks / my gratitude / with gratitude / that's very kind / so kind of you / how kind /
kind of you / very kind / you're kind / you are so sweet / thanks! thanks / thanks thanks / thank you thank you / thank you, thank you /
thanks thanks thanks / ty ty ty / thank yew / thank you so so much / thanks so so much / thank you heaps / thank you loads / thank you
tons / thank you a million / thank you ever so much / thank you for everything / thank you for all / thank you for your help / thank you
for helping / thank you for helping me / thank you for answering / thank you for the answer / thank you for the help / thank you for the
info / thank you for the information / thank you for the tip / thank you for the advice / thank you for the nice chat / thank you for
that answer / thank you for that / thank you for being here / thank you for being so kind / thank you for your kindness / thank you for
your patience / thank you for your work / thank you for your reply / thank you for explaining it / thank you for making it clear / thank
you for listening / thank you for today / thanks for all / thanks for all the help / thanks for your help / thanks for helping / thanks
for helping me / thanks for the answer / thanks for the reply / thanks for the quick reply / thanks for the tip / thanks for the tips /
thanks for the advice / thanks for the explanation / thanks for that / thanks for this / thanks for being there / thanks for being so
nice / thanks for listening / thanks for letting me know / thanks for telling me / thanks for the heads up / thanks for sharing / thanks
for your patience / thanks for your kindness / thanks for your answer / thanks for nothing / thanks for trying / thanks for today /
thanks for clearing that up / thanks in advance / thank you in advance / thank you and good luck / thanks but no / no thanks / no thank
you / yes thanks / yes thank you / ok thx / okay thx / ok ty / okay ty / oki thanks / kk thanks / kk thx / k thx / kthx / kthanks /
alright thanks / alrighty, thanks / right, thanks / cool thanks / cool thx / cool, ty / great thanks / great thx / nice thanks / awesome
thanks / perfect thanks / good thanks / fine thanks / lovely thanks / sweet thanks / sweet, ty / wow thanks / wow thank you / oh thanks
/ oh thank you / ah thanks / ah thank you / aw thanks / aww thank you / aww thx / hey thanks / hey thank you / well thanks / well thank
you / big thx / big ty / huge thanks / massive thanks / endless thanks / infinite thanks / deep thanks / heartfelt thanks / kind thanks
/ best thanks / special thanks / all the thanks / a big thank you / a huge thank you / a big thanks / big thank you / one thousand
thanks / a million thanks / million thanks / thousand thanks / thx heaps / thx so much / thx a bunch / thx a ton / thx man / thx dude /
thx again / thx for that / thx for the help / thx u / thxs / thanxs / thank uu / thankuu / thankyouu / thankz / thanku / thanku so much
/ thank you v much / thanks v much / tq / tq so much / tks a lot / tnx / tnx m8 / tnks / tankyou / fanks / fank you / danku / ta very
much / ta muchly / ta mate / ta love / cheers mate / cheers bud / cheers pal / cheers bro / cheers love / cheers a lot / cheers big ears
/ nice one / nice one mate / good one, thanks / obliged / I'm obliged / much obliged to you / I am much obliged / I'm in your debt / I
am in your debt / in your debt / I owe you a beer / I owe you a coffee / I owe you big time / I owe you so much / I am thankful / I'm
thankful / I'm so thankful / I am so grateful / I'm so grateful / I'm very grateful / so grateful / eternally grateful / forever
grateful / grateful for that / I'm grateful for your help / I appreciate that / I appreciate it a lot / I really appreciate it / I
really appreciate your help / I appreciate your help / I appreciate the help / I appreciate you / really appreciate it / really
appreciated / appreciate it / appreciate it a lot / appreciate that / appreciate ya / appreciate you / appreciate your time / highly
appreciated / deeply appreciated / greatly appreciated / your help is appreciated / your help was great / your help is much appreciated
/ you have my thanks / you have my gratitude / accept my thanks / please accept my thanks / receive my thanks / let me thank you / let
me say thanks / I want to thank you / I'd like to thank you / I would like to thank you / I must thank you / I should thank you / I just
wanted to thank you / I wanted to say thanks / just wanted to say thanks / just saying thanks / can't thank you enough / cannot thank
you enough / I don't know how to thank you / how can I thank you? / how can I ever thank you? / what would I do without you / you're a
lifesaver / lifesaver / you are a lifesaver / lifesaver, thanks / you saved me / you saved the day / you saved my life / you saved me
hours / you are a gem / you're a gem / you're a treasure / you're an angel / you are an angel / you're the man / you da best / you're
the bomb / bless your heart / bless you, robot / may you live long / much love / lots of love /
a hug for you / big hug / virtual hug / respect to you / props to you / kudos to you / hats off to you / I salute you / salute / cheers
to you""",
    "much": """
a lot / very much / so much / for your help / for that / again / for everything / a million / for the answer / for now / really / indeed
/ kindly / for explaining / for your time / for your patience / for the quick reply / for the info / for the chat / for nothing / from
all of us / from {place} / from my heart / from me / my friend / dear / buddy / robot / mate / man / loads / heaps / for helping / for
helping me out / for being here / for today / anyway / ever so much / sincerely / and have a good day / for being so nice / you too /
for the tip / for that one / so very much / so so much / very very much / very kindly / ever so kindly / a ton / a bunch / tons / a
great deal / a whole lot / lots / big time / infinitely / truly / honestly / sincerely, {name} / from {name} / from us / from my {who} /
for all / for all of it / for all your help / for all you do / for all the answers / for your answer / for your reply / for your
response / for your kindness / for your effort / for your support / for your honesty / for the quick answer / for the fast reply / for
the good answer / for the nice answer / for the clear answer / for the long answer / for the short answer / for the great explanation /
for the explanation / for the details / for the lesson / for the tips / for the advice / for the reminder / for the laugh / for the
conversation / for the talk / for the company / for the summary / for the sentences / for the facts / for these facts / for this / for
this one / for this answer / for this info / for these / for those / for it / for taking the time / for trying / for trying at least /
for helping us / for helping my {who} / for saving my day / for saving me / for making that clear / for clearing that up / for
clarifying / for sharing / for showing me / for teaching me / for telling me / for letting me know / for listening / for the listening /
for talking to me / for chatting / for chatting with me / for your company / for being kind / for being honest / for being patient / for
being you / for being awake / for existing / for tonight / for this morning / for this evening / then / in advance / once more / once
again / one more time / my dear / my dear friend / old friend / good friend / little robot / little bot / bot / dude / bro / bruh / boss
/ chief / sir / madam / love / everyone / MegaContext / Mega / computer / machine / assistant / buddy of mine / you are great / you rock
/ you're the best / that helps / that helped me / that will do / that is enough / I understand now / I got it / got it / it
works / it worked / now I know / now I get it / and have a nice day / and take care / and all the best""",
    "praise": """
great / good job / well done / perfect / nice / cool / wonderful / very good / awesome / correct / right / good / helpful / excellent /
fine / super / nice work / very helpful / amazing / that is right / brilliant / good answer / you rock / you are the best / love it / I
like it / that is useful / that was quick / impressive / neat / sweet / good bot / clever / spot on / exactly / wow, nice / bravo / very
useful / lovely / what a great answer / that is what I needed / fantastic / superb / splendid / marvellous / stunning / magnificent /
terrific / outstanding / great stuff / good stuff / nice one / good one / great work / excellent work / great answer / nice answer /
fine answer / the best / well said / well explained / clearly put / that works / it works now / works for me / that did it / that does
it / that solved it / problem solved / that's it exactly / that is perfect / that makes it clear / now it is clear / all
clear now / that was easy / so helpful / really helpful / most helpful / handy / informative / beautiful / gorgeous / cool stuff / dope
/ lit / rad / ace / top / top notch / first class / magic / genius / smart / so smart / you're smart / you are clever / you're
awesome / you're great / you are amazing / you're good / you're a star / you're a legend / legend / champion / good robot / clever
machine / I'm impressed / I am so happy / I love it / love that / like it / glad I asked / you nailed it / nailed it / bingo / yay /
hooray / woohoo / yes! / cheers / A+ / ten out of ten / five stars / thumbs up / perfecto / very well / that was kind / that was fun /
that was fast / so quick / wow / great answer, bot / great explanation / great reply / great response / great summary / great job /
great one / great robot / great machine / good answer, robot / good explanation / good response / good reply / good summary / good work
/ good girl / good boy / good bot, nice / good thinking / good point / good to know / nice explanation / nice summary / nice reply /
nice response / nice job / nice robot / nice bot / nice try / nicely done / nicely said / nicely put / well put / well answered / well
played / well spoken / well, that's great / well that was great / beautifully said / beautifully put / perfectly put / perfectly right /
perfectly clear / crystal clear / clear / clear now / clear enough / that's clear / that is clear / all clear / makes perfect sense /
quite right / right you are / you're right / you are right / you were right / that's right / that's correct / that is correct / correct
answer / right answer / the right answer / exactly that / exactly what I wanted / exactly what I needed / exactly what I was looking for
/ just what I wanted / just what I was looking for / just right / just perfect / simply great / simply perfect / simply the best /
absolutely great / absolutely perfect / absolutely right / absolutely brilliant / pretty good / pretty cool / pretty impressive / pretty
smart / pretty neat / not bad / not bad at all / not too bad / quite good / quite nice / quite impressive / really good / really nice /
really cool / really great / really impressive / really clear / so good / so cool / so nice / so clever / so clear / so fast / so sweet
/ so lovely / so useful / very cool / very nice / very clever / very clear / very smart / very impressive / very sweet / very fast /
very informative / very interesting answer / super cool / super nice / super useful / super helpful / super clear / super quick / super
duper / extremely helpful / extremely useful / incredibly helpful / incredible / unbelievable / fabulous / phenomenal / sensational /
spectacular / exceptional / extraordinary / remarkable / admirable / delightful / charming / adorable / cute / peachy / swell / groovy /
gnarly / wicked / mint / brill / fab / epic / legendary / goated / goat / based / fire / slay / pog / poggers / W / big W / gg / gg wp /
wp / noice / nais / niceee / coool / greatt / kewl / coolio / sweeet / awesomesauce / fantabulous / wunderbar / bueno / muy bien / très
bien / magnifique / prima / toll / top answer / top job / top marks / top work / full marks / 10/10 / 100 points / a plus / gold star /
five stars from me / thumbs up from me / two thumbs up / you win / you win the day / you get a star / you deserve a medal / you deserve
a cookie / you're brilliant / you are brilliant / you're wonderful / you are wonderful / you're lovely / you are lovely / you're sweet /
you are sweet / you're nice / you are nice / you're cool / you are cool / you're fun / you're funny / you are funny / you're so smart /
you are so smart / you are very smart / you are very clever / you are very helpful / you are a good bot / you are a good robot / you're
a good bot / you're a genius / you are a genius / you're a wizard / you're a hero / my hero / you're my hero / you're a pro / you are
the greatest / you're the greatest / you're the best bot / best bot / best bot ever / best answer / best answer ever / best robot / I
like that / I like your answer / I like this answer / I like how you said that / I love this / I love this bot / I love your answer / I
loved that / I enjoyed that / I enjoyed this / I'm happy with that / I am happy with this / I'm pleased / I am satisfied / I'm amazed /
I am impressed / I am very impressed / I'm glad / I am glad I asked / that's great / that is great / that's good / that's perfect /
that's awesome / that's amazing / that's brilliant / that's wonderful / that's lovely / that's cool / that's neat / that's nice / that's
very nice / that's so nice / that's sweet / that's kind / that's helpful / that's useful / that's very useful / that's very helpful /
that's what I needed / that's what I meant / that's the one / that's it, great / that's better / much better / way better / better /
that was great / that was good / that was perfect / that was nice / that was amazing / that was impressive / that was excellent / that
was brilliant / that was clever / that was clear / that was lovely / that was very helpful / that was helpful indeed / that was a good
one / that was a good answer / that was a nice answer / that was the answer / that was exactly right / this is great / this is good /
this is perfect / this is awesome / this is so cool / this is useful / this is helpful / this is very useful / this is what I needed /
this was great / this was helpful / this was useful / this was nice / what a nice answer / what a clever answer / what a good
explanation / what a clever machine / what a smart bot / what a help / what a relief / how clever / how nice / how sweet / how lovely /
how cool / how useful / how wonderful / wow great / wow cool / wow, clever / wow, you're good / wow, that's good / wow, amazing / oh
nice / oh cool / oh great / oh good / oh wow / oh that's nice / ah nice / ah great / ah perfect / ok nice / ok cool / ok great / okay
great / okay cool / okay perfect / ok perfect / aha, great / haha nice / haha great / haha good one / lol nice / lol good one / yes,
perfect / yes, great / yes exactly / yes, that's right / yes that's it / yes, correct / yeah great / yep, perfect / yup, great / yess /
yesss / hurray / hurrah / yippee / whoop / woot""",
    "helped": """
that helped / that helps / it helped / that helped a lot / that answered it / that answers it / this answers everything / that explains
a lot / that explains it / you helped me / you helped a lot / you were helpful / that was kind / you are kind / so kind / I get it now /
I got it now / I understand now / now I know / now I understand / I learned a lot / I learned something / that's what I wanted / just
what I needed / exactly what I needed / it worked / it works / this works / that worked / it is clear now / you
saved me / you saved my evening / that is useful / that was useful / that was quick / that is right / that was right / I am happy now /
I'm so glad / you made me happy / you did well / you do well / you're helpful / you are so helpful / a good explanation / a great
explanation / what a good answer / good to hear / that helps a lot / that helps me / that helps me a lot / that really helps / that
really helped / that helped me / that helped me a lot / that helped so much / that has helped / this helps / this helps a lot / this
helped / this helped me / this helped a lot / it helps / it helps a lot / it helped me / it really helped / you've helped me / you've
been helpful / you've been very helpful / you have been a great help / you have been most helpful / you were a great help / you were
very helpful / you were so helpful / you were great / you were kind / you were right / you're a great help / you are a big help / you're
so kind / you are very kind / you are too kind / you're too kind / how kind of you / very kind of you / so nice of you / that's nice of
you / that's so kind / that's very nice of you / that was nice of you / that was so kind / that was very kind / that answers my question
/ that answers all / that answered my question / that answered everything / you answered my question / you answered everything / my
question is answered / question answered / now it's clear / now it is all clear / now I see it / now I understand it / now it makes
sense / it makes sense now / that makes sense now / I understand it now / I understand better now / I see it now / I get the idea / I
get it / I got what I needed / I got my answer / I have my answer / I have what I need / I have all I need /
that's all I wanted to know / that's what I was after / that's what I was looking for / that's just what I needed / it works now / it
works great / it works fine / it does work / it worked fine / it worked well / it worked like a charm / works like a charm / works great
/ works fine / works perfectly / that works great / that works well / that fixed it / it is fixed / fixed it / it's fixed now / solved /
problem gone / that solved my problem / my problem is solved / you solved it / you solved my problem / you fixed it / you made it easy /
you made it clear / you made it simple / you made my evening / you made my week / you made me smile / you made me laugh / you explained
it well / you explain well / you explain things well / well explained indeed / a good answer / a nice answer / a clear answer / a fine
answer / a helpful answer / a very good answer / such a good answer / such a help / what a good help / very useful info / useful to know
/ good info / great info / great help / big help / huge help / so much clearer / much clearer now / I feel better / I feel better now /
I feel smarter / I am smarter now / I learned something new / I learned so much / we learned a lot / I will remember that / I'll
remember that / I'll try that / I will try it / I'll use that / I can use that / I can work with that / my {who} will be happy / my
{who} is happy now / my {who} loved it / my {who} says thanks / the {job} was happy""",
}
