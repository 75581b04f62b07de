"""Farewells, reasons to leave and wishes: words of the slots, those at the front come more often."""

from __future__ import annotations

SLOTS = {
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
Well, goodbye / Fare well / Farewell then / Adios amigo / Bye-bye now / Bye bye bye / Bye bye then / Bye you / Bye Mega / Bye bot / Bye
robot / Bye computer / Bye friend / Bye mate / Bye dear / Bye guys / Bye folks / Bye to all / Bye for today / Bye until tomorrow / Bye,
see you / Bye, take care / Bye, have fun / Bye, good night / Bye see ya / Byebye / Byeeee / Byyye / Bayy / Bb / Bbye / Bbl / Bbfn / Bfn
/ B4n / Bubye / Bubbye / Ba-bye / Buh bye / Ttfn / Ttys / Ttyt / Talk to ya later / Tty tomorrow / Syl / Sya / Cu later / Cu soon / Cu
tomorrow / C u / C ya / C ya later / C u later / Cyaa / Cyall / Seeya / See u / See u later / See u soon / See u tomorrow / See ya
tomorrow / See ya next time / See ya, bro / See yaa / See you again / See you again soon / See you another day / See you another time /
See you at noon / See you in a bit / See you in a while / See you in an hour / See you in May / See you in two weeks / See you later
today / See you later then / See you next month / See you next year / See you on the other side / See you on Tuesday / See you on Sunday
/ See you out there / See you over there / See you sometime / See you then / See you tonight / See you when I see you / See you, then /
See you all / See you around, then / I'll see you / I'll see you later / I'll see you tomorrow / I'll see you around / I'll see you next
week / I'll catch you later / Catch you on the flip side / Catch you around / Catch you next time / Catch ya later / Catch u later /
Later bro / Later dude / Later mate / Later man / Later all / Later alligator / Later gators / Laterz / Laterr / L8rs / L8er / Lates /
Until next time / Until Monday / Until tonight / Until the next one / Until we speak again / Until we talk again / Till we meet again /
Till next week / Till then / Till soon / Til later / Til next time / So long, friend / So long, pal / So long, farewell / So long for
now / Farewell, friend / Farewell, machine / Farewell for now / Farewell and good luck / A fond farewell / I bid you farewell / I bid
you good night / I bid you goodbye / I bid you adieu / I say goodbye / I'll say goodbye / I want to say goodbye / I just wanted to say
bye / Saying goodbye / Say goodbye / Time to say goodbye / Let me say goodbye / This is goodbye / This is the end / It's goodbye, then /
Goodbye dear / Goodbye friend / Goodbye model / Goodbye robot / Goodbye computer / Goodbye world / Goodbye MegaContext / Goodbye again /
Goodbye everyone / Goodbye all / Goodbye then / Goodbye, and thanks / Goodbye, take care / Goodbye and good luck / Goodbye and good
night / Goodbye and take care / Goodbye until tomorrow / Goodbye, see you soon / Good-bye / Good-bye then / Goodby / Gdbye / Gbye /
Gudbye / Gudnite / Gnight / G'night / Gn all / Gn8 / Gnite / Gute Nacht / Good night everyone / Good night dear / Good night robot /
Good night computer / Good night MegaContext / Good night and sleep well / Good night, sleep tight / Good night for now / Good night
then / Good night, see you tomorrow / Goodnight / Goodnight all / Goodnight moon / Goodnight friend / Goodnight then / Have a good
night's sleep / Have a good evening / Have a good weekend / Have a good time / Have a good trip / Have a good rest / Have a good life /
Have a good rest of the day / Have a great time / Have a great night / Have a great weekend / Have a lovely day / Have a lovely night /
Have a lovely week / Have a lovely weekend / Have a nice one / Have a nice night / Have a nice time / Have a nice trip / Have a nice
rest of your day / Have a peaceful night / Have a pleasant day / Have a pleasant evening / Have a safe trip / Have a wonderful day /
Have a wonderful evening / Have a super day / Have yourself a good day / You have a good day / You have a nice evening / You too, bye /
You too, take care / Nice day to you / A good evening to you / A good day to you / Good evening and goodbye / Good day to you, bye /
Enjoy the weekend / Enjoy the rest of your day / Enjoy your night / Enjoy your weekend / Enjoy life / Sleep tight, robot / Sleep good /
Sleep well, friend / Sleep well, machine / Sweet dreams to you / Sweet dreams, robot / Nighty nite / Night-night / Nightnight / Nites /
Nite nite / Night friend / Night robot / Night then / Night, see you / Off to dreamland / Be good / Be safe / Be seeing you / Be strong
/ Stay cool / Stay gold / Stay strong / Stay warm / Stay healthy / Stay awesome / Stay classy / Stay tuned / Keep safe / Keep cool /
Keep in touch / Let's stay in touch / Let's talk again soon / Let's talk tomorrow / Let's talk later / Let's meet again / Let's speak
soon / We'll meet again / We will meet again / We'll talk later / We'll talk tomorrow / We'll speak soon / I'll talk to you later / I'll
talk to you tomorrow / I'll be back soon / I'll be back tomorrow / I'll come back / I'll come back tomorrow / I'll write tomorrow / I'll
write you later / Hear from you soon / Hope to see you soon / Hope to talk again / Looking forward to next time / Talk again soon / Talk
to you again / Talk to you next week / Talk to you tonight / Talk l8r / Speak tomorrow / Speak again soon / Speak to you later / Speak
to you tomorrow / Chat tomorrow / Chat to you later / Chat again soon / Write soon / Write you later / Take care of yourself / Take
care, friend / Take care, robot / Take care, bye / Take good care / Take it slow / Mind yourself / Mind how you go / God be with you /
God bless, bye / Go in peace / Go well / Live long and prosper / May the force be with you / Best of luck / Good luck, bye / Good luck
out there / Best wishes / Best regards / Kind regards / Regards / Sincerely / Yours / Yours truly / Yours sincerely / Love and peace /
Peace and love / Peace bro / Peace, out / Peaceout / Peace ✌️ / Deuces / Dueces / I'm ghost / Adios / Adios for now / Adiós / Au revoir,
friend / Auf wiedersehn / Arrivederci / Ciao bella / Ciao, bot / Ciao for today / Chao chao / Tschau / Tschö / Tschüssi / Tschüssikowski
/ Servus / Tot straks / Hasta pronto / Hasta la proxima / Ta ta / Ta ta for now / Ta-ta then / Tatty bye / Tatty-bye / Toodaloo /
Toodeloo / Toodle-pip / Tally ho / Cheery-bye / Cheery bye / Cheerie / Cheers and bye / Cheers, see you / Cheerio then / Cheerio, old
chap / Right, bye / Right, I'm off / Right then, bye / Alright, bye / Alright then, bye / All right, goodbye / Ok byeee / Okay bye bye /
Okay, goodbye / Okie, bye / Ok ciao / Ok see you / Ok see ya / Ok later / Ok cya / Ok good night / Ok gn / K bye / Kk bye / Kbye /
Kthxbye / Thx bye / Ty bye / Thanks bye / Thanks, goodbye / Thank you, goodbye / Thank you and bye / Thank you and good night / Thanks
and bye / Thanks and good night / Thanks, see you / Thanks, gotta go / Cool, bye / Fine, bye / Great, bye / Nice, bye / Yes, bye / Yeah
bye / No, bye / Nope, bye / Anyway, bye / Anyways, bye / Welp, bye / Oh well, bye / Um, bye / So bye / And bye / Exit stage left /
Curtain / The end / Fin / Finito / Mic drop / That's a wrap / It's a wrap / Wrap it up / Time to wrap up / Until death / Away""",
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
/ the {job} needs me / going now / I've got to go / I've gotta go / I have to leave / I have to leave now / I have to sleep / I have to
work / I have to be off / I have to be somewhere / I have to hang up / I have to stop here / I have to end this / I have to end here / I
have to take this call / I have to walk the dog / I have to make dinner / I have to get up early / I have to get ready / I have to get
home / I have to get off the bus / I have to go home / I have to go to work / I have to go to bed / I have to go to sleep / I have to go
to school / I have to go to class / I have to go back / I have to go back to work / I have to go and eat / I must go / I must go home /
I must go to bed / I must sleep / I must run / I must dash / I must say goodbye / I must hurry / I must get some sleep / I need to go /
I need to go home / I need to go to bed / I need to go to work / I need to run / I need to run now / I need to get off / I need to get
going / I need to log off / I need to be going / I need to hang up / I need to catch my bus / I need to catch a train / I need to call
my {who} / I need to feed the kids / I need to charge my phone / I should go / I should go now / I should go to bed / I should be going
/ I should be off / I should be in bed / I should get back / I should get back to work / I should get some sleep / I should log off / I
should run / I gotta go / I gotta run / I gotta sleep / I gotta bounce / I gotta leave / I gotta split / I gotta get going / gotta leave
/ gotta get going / gotta get back / gotta work / gotta go now / gotta go home / gotta go to bed / gotta go to work / gotta go eat /
gotta catch a bus / gotta catch a train / gotta split / gotta scoot / gotta head out / gotta hop off / gotta log off / gotta take this
call / gotta feed the {who} / gtg now / gtg sorry / gtg ttyl / g2g bye / got to go / got to go now / got to dash / got to leave / got to
sleep / got to get back / better go / better go now / better be going / better get going / best be off / best be going / I'd best be off
/ I'd best be going / I'd better run / I'd better be off / I'd better sleep / I'd better get back to it / I'm off / I'm off now / I'm
off then / I'm off home / I'm off to bed / I'm off to work / I'm off to sleep / I'm off to school / I'm off to the shops / I'm off to
see my {who} / I'm gone / I'm going now / I'm going home / I'm going to bed / I'm going to sleep / I'm going to work / I'm going to go /
I'm going to go now / I'm going to log off / I'm going to lunch / I'm going offline / I'm leaving / I'm leaving you now / I'm leaving
for work / I'm heading out / I'm heading off / I'm heading home / I'm heading to bed / I'm headed home / I'm hitting the road / I'm
hitting the hay / I'm hitting the sack / I'm turning in / I'm calling it a night / I'm calling it a day / I'm logging off / I'm logging
out / I'm signing off / I'm hanging up / I'm closing this / I'm closing the window / I'm closing the tab / I'm shutting down / I'm
turning you off / I'm switching off / I'm done here / I'm done for now / I'm done for the day / I'm done with you / I'm done talking /
I'm done, bye / I'm finished / I'm finished here / I'm finished for today / I'm tired, good night / I'm tired, I'm going to bed / I'm
sleepy / I'm too tired to go on / I'm running late / I'm late for class / I'm late for dinner / I'm late for the train / I'm being
called / I'm needed elsewhere / I'm needed at home / I am off now / I am off home / I am off to bed / I am off to work / I am going / I
am going now / I am going to bed / I am going to work / I am going offline / I am done / I am done here / I am done with my questions /
I am out / I am out of here / I am out of time / I am out of questions / I'm out of here / I'm out of time / I'm out of questions / I'm
outta time / I'm out for today / I'm out, bye / im off / im off to bed / im done / im going / im leaving / im gone / im heading out / im
gonna go / im gonna sleep / im going to sleep / I'm gonna go / I'm gonna sleep / I'm gonna head out / I'm gonna run / gonna go now /
gonna sleep / gonna go to bed / gonna head out / let me go / let me go now / let me sleep / let me get back to work / let us leave it
here / let us leave it at that / let us call it a day / let us say goodbye / let us end here / let us end the chat / let us talk another
day / let's leave it here / let's leave it there / let's leave it at that / let's end it here / let's end here / let's end this / let's
end the chat / let's finish / let's finish here / let's stop here / let's stop for today / let's say goodbye / let's wrap up / let's
wrap it up / let's call it a night / let's continue tomorrow / let's continue another time / let's go on tomorrow / let's talk tomorrow
/ we can end here / we can leave it there / we can continue tomorrow / we will go on tomorrow / we'll continue tomorrow / we'll go on
next week / we are through / we are finished here / we're finished / we're done / we're done for today / that's all folks / that's all I
wanted / that's all I had / that's all I needed / that's all for tonight / that's all from me / that's all for me / that's all, bye /
that's all, thanks / that's it for now / that's it for today / that's it from me / that's it, bye / that's it, thanks / that's
everything for now / that's everything from me / that is all for now / that is all for today / that is all, thanks / that is it / that
is it for me / that will do / that will do for today / that would be all / that does it for today / that was all / that was it / that
was my last question / this was my last question / this is all for today / it's all for now / it is all for today / nothing else, thanks
/ nothing else for now / nothing more, thanks / no more, thanks / no further questions / no other questions / no, that's all / no, that
is all / no, I'm done / no, nothing else / no that's it / nope, that's all / nope, I'm good / no, I'm good / I'm good, bye / I'm good
for now / I'm all set / all set / all set, bye / I have everything I need / I have all I need, bye / I got all I need / enough talk /
enough chat / enough chatting / enough for tonight / enough for me / enough of this / enough questions / I've had enough / I've had
enough for today / it's late / it's late here / it's so late / it's very late, good night / it's bedtime / it's time to go / it's time
for me to go / it's time for bed / it's time to sleep / it's time to leave / it's time to say goodbye / it's time I left / it's midnight
/ it's past my bedtime / it is time / it is time to go / it is time to sleep / it is getting late / it is late, good night / it's
getting dark / time to head out / time to head home / time to hit the road / time to hit the hay / time to hit the sack / time to log
off / time to sign off / time to stop / time to say bye / time to eat / time to work / time for lunch / time for sleep / time for class
/ time for me to go / time I went / my time is up / my shift is over / my shift begins / my shift ends now / my lunch is over / my train
is coming / my train is here / my ride is here / my taxi is here / my stop is next / my bus comes now / my flight is boarding / my
flight leaves soon / my class begins / my class starts now / my lesson starts / my lecture starts / my break ends / my battery is low /
my phone is about to die / my laptop is dying / my {who} is here / my {who} is waiting / my {who} wants me / my {who} needs me / my
{who} needs the phone / my {who} wants the computer / my {who} is home / the {who} is calling / the kids are home / the kids need me /
the baby is crying, bye / the dog needs a walk / the bus is here / the train is here / the movie starts / the game starts / the film is
starting / the meeting starts / the class starts / the oven is ready / the doorbell rang / someone's at the door / somebody is at the
door / there's someone at the door / the door bell, bye / dinner time / dinner's ready / lunch time / lunch break is over / bed time /
bedtime / bed is calling / my bed is calling / sleep is calling / work is calling / the road calls / home calls / nature calls / boss is
coming / boss is back / the boss is coming / teacher is coming / break time is over / break over / shift's over / shift over / class is
over / school's out / back to the books / back to the grind / back to class / back to reality / back to sleep / back to my {who} / back
on the road / on my way / on my way out / on my way home / off to sleep / off to lunch / off to class / off to dinner / off to see my
{who} / off to {place} / off to catch a train / off to the shops / off for today / off for a walk / off now / offline now / logging off
now / signing off now / signing out / sign out / sign off / turning in / turning in for the night / hitting the road / hitting the hay /
heading off / heading off now / heading to bed / heading to class / heading to work / heading out now / hopping off / hanging up /
hanging up now / closing now / closing the app / closing the window / closing time / close this / close the app / close the window /
close window / close session please / end it here / end it / end now / end this chat / end this conversation / end the conversation /
end conversation / end session / end call / finish here / finish the chat / stop here / stop now / stop the chat / stop this / stop
talking / stop chat / shutdown / shut it down / switch off / turn off / turn yourself off / power off / power down / kill session / :q /
:wq / :q! / q / quit chat / quit the chat / quit please / exit the chat / exit please / exit chat / exit() / quit() / logoff / log off /
log me out / sign me out / disconnect / disconnecting / done / done here / done, bye / done, thanks / afk / afk for a while / brb then /
bbl / be back later / be back soon / be back tomorrow / I'll be right back / I'll be off / I'll be off now / I'll be going / I'll be
going now / I'll be leaving / I'll go now / I'll go to bed / I'll go to sleep / I'll leave now / I'll leave you / I'll leave you alone /
I'll leave you to it / I'll leave it there / I'll let you go / I'll let you rest / I'll let you get back to work / I'll let you sleep /
I'll stop now / I'll stop bothering you / I'll stop here / I'll sleep now / I'll run now / I'll head out / I'll head off / I'll log off
now / I'll close this / I'll close the chat / I'll call it a day / I'll call it a night / I will go / I will go now / I will go to bed /
I will leave / I will leave you now / I will stop now / I will sleep now / I will let you rest / I won't keep you / I won't take more of
your time / I won't bother you any more / I don't need anything else / I don't want to talk anymore / I don't have more questions / I do
not need more / I do not have any more questions / I can't stay / I can't stay long / I cannot stay / can't stay / can't talk now /
can't talk any longer / sorry, gotta go / sorry, I have to go / sorry, must go / oh no, gotta run / oops, gotta go / so sorry, I must
leave""",
    "then": """
then / later / tomorrow / for today / and thanks / and thank you / until next time / everyone / and good luck / again / for tonight / my
friend / sweet robot / have fun / take care / love / and good night / see you / for ever / now / dear / and sleep well / till Monday /
and stay safe / next week / in the morning / soon / then, friend / then, robot / then, bot / then, all / later, friend / everybody / all
/ folks / guys / friends / robot / bot / machine / computer / assistant / MegaContext / Mega / mate / pal / buddy / bro / dude / man /
sir / madam / boss / chief / honey / darling / sweetie / sunshine / you / little one / little robot / little bot / old friend / my dear
/ my dear friend / good friend / dear friend / sweet machine / kind robot / and bye / and farewell / and peace / and good day / and good
evening / and have fun / and take care / and enjoy / and be well / and be good / and rest well / and thanks again / and thank you for
everything / and thanks for all / and cheers / and all the best / and god bless / and see you / and see you soon / and see you tomorrow
/ and until next time / and till next time / see you then / see you tomorrow / see you soon / see you later / talk soon / take it easy /
good luck / be well / stay safe / sleep well / sweet dreams / for a while / for the moment / for the day / for the night / for this week
/ for good / until later / until tonight / until next week / until we meet again / till tomorrow / till next week / till later / tonight
/ this evening / on Monday / on Friday / next Monday / next month / tomorrow morning / tomorrow night / tomorrow then / again soon /
around / real soon / very soon / another day / another time / one day / some day / somewhere / in a bit / in a while / in a minute / in
an hour / in a few days""",
    "wish": """
have a nice day / have a good day / have a good one / have a great week / have a nice weekend / have a lovely evening / have a good
night / sleep well / good luck / take care / take care of yourself / all the best / best wishes / be good / be well / stay well / stay
safe / stay cool / keep it up / rest well / enjoy your day / enjoy the weekend / enjoy the sun / don't work too hard / mind how you go /
get some rest / sweet dreams / see you soon / see you then / see you tomorrow / see you on Friday / see you next month / see you at work
/ talk to you soon / talk to you later / talk tomorrow / speak to you soon / until next time / until tomorrow / till Monday / till then
/ I'll be back / I'll write again / I will return / I'll miss you / it was nice / it was fun / it was nice talking to you / nice talking
to you / nice chatting / great chat / it was a pleasure / we'll talk again / you take care / catch you soon / have a good evening / have
a good weekend / have a good rest / have a good time / have a good sleep / have a good trip / have a great day / have a great evening /
have a great time / have a great weekend / have a lovely day / have a lovely week / have a lovely weekend / have a nice evening / have a
nice night / have a nice time / have a nice week / have a pleasant day / have a restful night / have a safe trip / have a wonderful day
/ have a wonderful night / have fun / have fun there / enjoy / enjoy your evening / enjoy your night / enjoy your weekend / enjoy the
rest of your day / enjoy the evening / enjoy the silence / good night / good night to you / good evening to you / nice
evening to you / a nice day to you / a good week to you / sleep tight / sleep well tonight / sleep good / sweet dreams to you / rest
well tonight / rest now / get some sleep / get well / be happy / be safe / be careful / be nice / stay healthy / stay strong / stay warm
/ stay awake / keep safe / keep well / keep warm / keep cool / keep smiling / keep going / keep up the good work / good luck to you /
good luck with everything / best of luck / best of everything / lots of luck / all the best to you / warm wishes / my best to you / my
best wishes / god bless / god bless you / peace / peace to you / take it easy / take good care / don't forget me / don't
miss me / think of me / miss me / till next time / till next week / till tomorrow / till we meet again / until Monday /
until next week / until later / until soon / until we meet again / see you / see you around / see you later / see you next time / see
you next week / see you again / see you again soon / see you on Monday / see you tonight / see you at noon / see you in the morning /
see you in a week / talk soon / talk later / talk to you tomorrow / talk to you next week / speak soon / speak later / write soon / chat
soon / catch you later / hope to see you soon / hope to talk again / let's talk again / let's talk soon / let's talk tomorrow / I'll see
you / I'll see you soon / I'll see you tomorrow / I'll be back soon / I'll be back tomorrow / I'll come again / I'll come back / I'll
talk to you later / I'll think of you / I'll write tomorrow / I'll tell my friends / it was great / it was great fun / it was good / it
was lovely / it was a nice chat / it was nice to meet you / it was nice to talk / it was good talking to you / it was great chatting /
it was a good talk / it's been fun / it's been nice / it's been a pleasure / it's been great / I enjoyed it / I enjoyed our chat / I had
fun / I had a good time / I had a nice time / I liked our talk / nice to have met you / nice chat / nice talk / good chat / good talk /
good talking to you / good to talk to you / great talk / great talking to you / great talking / lovely chat / lovely talking to you /
pleasure talking to you / see ya / ttyl / cu / xoxo / xx / kisses / hugs""",
}
