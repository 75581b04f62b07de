"""Hello, thanks and goodbye in many languages and in slang, and words of other languages that the model does not speak."""

from __future__ import annotations

import random

_HELLO = """
hola, buenos días, buenas tardes, buenas, bonjour, bonsoir, salut, coucou, allô, hallo, moin, servus, grüezi, grüß Gott, guten
Tag, guten Morgen, guten Abend, ciao, buongiorno, buonasera, salve, olá, oi, bom dia, boa tarde, e aí, hej, hejsan, tjena, god dag, hei,
god morgen, moi, terve, tere, labas, sveiki, cześć, dzień dobry, ahoj, dobrý den, nazdar, szia, jó napot, bună ziua, zdravo, dobar dan,
привет, здравствуйте, добрый день, привіт, здравей, privet, zdravstvuyte, merhaba, selam, günaydın, γεια σου, kalimera, yassou, shalom,
שלום, salam, salaam alaikum, assalamu alaikum, marhaba, مرحبا, ahlan, namaste, namaskar, नमस्ते, vanakkam, sat sri akal, adaab,
ayubowan, ni hao, nihao, 你好, 您好, nei hou, konnichiwa, こんにちは, ohayo, konbanwa, moshi moshi, annyeong, annyeonghaseyo,
안녕하세요, sawasdee, xin chào, halo, selamat pagi, apa kabar, kumusta, jambo, habari, sawubona, mambo, aloha, kia ora, bula, saluton,
hoi, goedemorgen, goedendag, dag, dia duit, haló, bore da, kaixo, bon dia, përshëndetje, barev, gamarjoba, qué pasa, buen día,
muy buenas, buenas noches a todos, hola a todos, hola amigo, salut à tous, bonjour à tous, rebonjour, wesh, opa, alô, fala aí, boa noite
a todos, pronto, ehi, buondì, moin moin, grüß dich, tach, tach auch, Mahlzeit, hallöchen, hoi zäme, salü, gruezi mitenand, goeiemorgen,
goeiedag, goeiemiddag, goedenavond, hoi hoi, halløj, halla, heisann, god kveld, god aften, god eftermiddag, tja, tjenare, hallå, tjabba,
moro, moikka, huomenta, hyvää päivää, hyvää iltaa, tere hommikust, čau, sveiks, labdien, labas rytas, laba diena, hejka, siema, elo,
witam, dobry wieczór, dzień dobry państwu, čaute, dobré ráno, dobrý večer, zdar, szevasz, jó reggelt, jó estét, bună, salutare, neața,
bună dimineața, bok, ćao, dobro jutro, dobra večer, živjo, здраво, добро утро, хай, приветик, салют, доброе утро, добрый вечер, здорово,
здрасте, вітаю, доброго ранку, καλημέρα, καλησπέρα, geia sou, selamlar, iyi günler, iyi akşamlar, iyi sabahlar, boker tov, erev tov,
ahlan wa sahlan, sabah al khair, masaa al khair, السلام عليكم, أهلا, صباح الخير, salaam, as-salamu alaykum, wa alaikum salam, dorood,
سلام, namaskaram, namaskara, suprabhat, kem cho, नमस्कार, nomoshkar, வணக்கம், ram ram, 早上好, 早, 嗨, 哈喽, 大家好, 晚上好, zao shang
hao, wei, おはよう, こんばんは, もしもし, ossu, ohayou gozaimasu, yahho, 여보세요, 안녕, yeoboseyo, sabaidee, สวัสดี, sawadee krap, chào
bạn, selamat siang, selamat malam, selamat sore, pagi, magandang umaga, magandang gabi, hujambo, shikamoo, habari yako, sanibonani,
dumela, molo, bawo ni, sannu, ndewo, salama, talofa, malo e lelei, bula vinaka, kia ora koutou, hafa adai, mingalaba, sain baina uu,
salom, rimaykullayki, mirëdita, tungjatjeta, bongu, bonswa, bonjou, salve amice, ave, tashi delek, sain uu, xin chao, ciao a tutti, ciao
bella, hej hej alla, hello zusammen, hi zusammen, hallo Leute, hallo Welt, hei på deg, hei sveis"""
_THANKS = """
gracias, muchas gracias, mil gracias, merci, merci beaucoup, merci bien, danke, danke schön, vielen Dank, danke dir, grazie, grazie
mille, obrigado, obrigada, valeu, dank je, dank u wel, bedankt, tack, tack så mycket, takk, tusen takk, tak, mange tak, kiitos, aitäh,
ačiū, paldies, dziękuję, dzięki, děkuji, díky, köszönöm, mulțumesc, hvala, спасибо, spasibo, дякую, благодаря, teşekkürler, sağ ol,
efharisto, ευχαριστώ, toda, תודה, shukran, شكرا, dhanyavad, shukriya, nandri, धन्यवाद, xie xie, 谢谢, arigato, arigatou gozaimasu,
ありがとう, gamsahamnida, 감사합니다, khop khun, cảm ơn, terima kasih, makasih, salamat, asante, mahalo, gràcies, eskerrik asko, diolch,
muchísimas gracias, gracias amigo, gracias por todo, gracias por la ayuda, mil gracias amigo, un millón de gracias, merci infiniment,
merci mille fois, merci à toi, merci pour tout, merci pour ton aide, un grand merci, danke sehr, danke vielmals, tausend Dank,
herzlichen Dank, besten Dank, danke für die Hilfe, danke für alles, ich danke dir, ich danke Ihnen, merci vielmal, grazie davvero,
grazie infinite, grazie di cuore, grazie a te, ti ringrazio, tante grazie, obrigado por tudo, brigado, brigadão, obrigadão, valeu mesmo,
valeu cara, agradecido, dank je zeer, hartelijk dank, heel erg bedankt, bedankt voor alles, dankjewel, dankuwel, dankie, baie dankie,
tackar, stort tack, tack för hjälpen, tack för allt, takk for det, takk for hjelpen, takk skal du ha, mange takk, hjertelig takk, tak
for hjælpen, tak skal du have, tusind tak, kiitos paljon, kiitti, kiitoksia, suur aitäh, tänan, labai ačiū, liels paldies, dziękuję
bardzo, dzięki wielkie, dzięki za pomoc, serdeczne dzięki, moc děkuji, děkuju, díky moc, ďakujem, vďaka, köszi, köszönöm szépen, nagyon
köszönöm, mersi, mulțumesc frumos, mulțumesc mult, merci mult, hvala lijepa, hvala puno, hvala lepo, puno hvala, хвала, большое спасибо,
спасибо большое, спасибки, благодарю, спс, спасибо за помощь, щиро дякую, дуже дякую, мерси, много благодаря, çok teşekkürler, teşekkür
ederim, çok sağ ol, eyvallah, sağ olun, σας ευχαριστώ, efharisto poli, toda raba, rav todot, shukran jazilan, shukran habibi, شكرا
جزيلا, alf shukr, merci ktir, mamnoon, motshakeram, bahut shukriya, bahut dhanyavad, meherbani, dhonnobad, nandri nanba, dhanyavadagalu,
शुक्रिया, xiexie, xie xie ni, duo xie, 多谢, 感谢, 非常感谢, 谢谢你, mh goi, do jeh, domo, domo arigato, arigatō, arigatou, doumo,
どうも, ありがとうございます, サンキュー, kamsahamnida, gomawo, 고마워, 고맙습니다, khop khun krap, khop khun ka, ขอบคุณ, cám ơn, cảm ơn
bạn, xin cảm ơn, terima kasih banyak, trims, suwun, matur nuwun, maraming salamat, salamat po, asante sana, ngiyabonga, enkosi, ke a
leboha, e se, na gode, daalu, mahalo nui loa, vinaka, faafetai, tēnā koe mō tēnā, moltes gràcies, grazas, mila esker, diolch yn fawr, go
raibh maith agat, tapadh leat, dankon, gratias, gratias tibi ago, takk fyrir, faleminderit, shnorhakalutyun, madloba, rahmat"""
_BYE = """
adiós, hasta luego, hasta mañana, nos vemos, chao, chau, au revoir, à bientôt, à demain, adieu, tschüss, tschüs, auf Wiedersehen,
bis bald, bis morgen, gute Nacht, arrivederci, a presto, buonanotte, tchau, até logo, até amanhã, adeus, boa noite, tot ziens, doei, hej
då, god natt, ha det, farvel, hei hei, näkemiin, head aega, do widzenia, na razie, pa pa, na shledanou, viszlát, la revedere, doviđenja,
пока, до свидания, poka, до побачення, görüşürüz, hoşça kal, güle güle, αντίο, lehitraot, ma'a salama, khuda hafiz, alvida, phir
milenge, zai jian, 再见, sayonara, さようなら, ja ne, annyeonghi, tạm biệt, sampai jumpa, dadah, paalam, kwaheri, slán, hwyl,
adéu, agur, adiós amigo, adiós amigos, hasta pronto, hasta la próxima, hasta el lunes, hasta nunca, hasta otra, chaucito, chaíto, buenas
noches y adiós, que descanses, que te vaya bien, cuídate, me voy, me tengo que ir, ya me voy, au revoir et merci, à plus, à plus tard, à
tout à l'heure, à la prochaine, à ce soir, à lundi, bonne nuit, bonne soirée, bonne journée, bon week-end, bisous, je dois y aller, je
m'en vais, salut à demain, ciao tutti, tschüssi, tschö, tschau, mach's gut, bis dann, bis später, bis gleich, bis zum nächsten Mal, bis
nächste Woche, bis Montag, auf Wiederhören, schönen Tag noch, schönen Abend noch, schönes Wochenende, schlaf gut, ich muss los, ich muss
gehen, ich bin weg, pfiat di, ade, uf widerluege, adieu zäme, baba, tschau zäme, ci vediamo, a dopo, a domani, alla prossima, ci
sentiamo, buona notte, buona giornata, buona serata, devo andare, me ne vado, addio, stammi bene, até, até já, até breve, até à próxima,
até segunda, falou, fui, tchauzinho, boa noite e até amanhã, preciso ir, tenho que ir, tchau tchau, beijos, abraço, doeg, daag, tot zo,
tot later, tot morgen, tot de volgende keer, tot gauw, fijne dag, fijne avond nog, welterusten, slaap lekker, ik moet gaan, ik ga
slapen, houdoe, ajuus, totsiens, hejdå, vi ses, vi hörs, hörs, ses, sov gott, god natt och sov gott, ha det bra, ha det så bra, ha en
bra dag, jag måste gå, adjö, ha det godt, vi snakkes, snakkes, sees, god natt da, jeg må gå, på gjensyn, morna, vi ses i morgen, farvel
så, hav det godt, godnat, jeg skal af sted, moikka moi, moi moi, nähdään, hyvää yötä, öitä, nägemist, head ööd, uz redzēšanos, ardievu,
atā, iki, viso gero, sudie, labanakt, do zobaczenia, do jutra, żegnaj, trzymaj się, dobranoc, papa, pa, nara, narka, muszę iść, měj se,
ahoj zítra, sbohem, dobrou noc, dovi, tak zatím, dobrú noc, dovidenia, majte sa, szia szia, helló helló, jó éjszakát, minden jót, pe
curând, noapte bună, pa pa și mulțumesc, vidimo se, adio, laku noć, čujemo se, lep pozdrav, nasvidenje, do skorog viđenja, довиждане,
чао, лека нощ, лека, увидимся, до встречи, до завтра, спокойной ночи, бывай, всего доброго, прощай, покеда, мне пора, до зустрічі, па,
бувай, добраніч, hoşçakalın, kendine iyi bak, iyi geceler, bay bay, yarın görüşürüz, kalinichta, ta leme, geia, yassas, καληνύχτα, τα
λέμε, layla tov, bye bye yalla, yalla bye, shalom shalom, להתראות, ilal liqa, tisbah ala khair, مع السلامة, وداعا, bslama, khodahafez,
shab bekheir, allah hafiz, shubh ratri, phir milte hain, namaste alvida, abar dekha hobe, poyittu varen, zài jiàn, 拜拜, 晚安, 明天见,
回头见, bai bai, mata ne, mata ashita, jaa ne, oyasumi, oyasuminasai, おやすみ, またね, じゃあね, バイバイ, jal ga, annyeong gaseyo, 잘
가, 안녕히 계세요, 잘자, la gon, ลาก่อน, chào tạm biệt, hẹn gặp lại, chúc ngủ ngon, selamat tinggal, selamat jalan, sampai nanti, sampai
besok, selamat tidur, dah, babay, ingat ka, hanggang sa muli, tutaonana, usiku mwema, lala salama, hamba kahle, sala kahle, totsiens
hoor, o dabo, sai anjima, a hui hou, haere rā, tōfā, moce, slán abhaile, oíche mhaith, mar sin leat, hwyl fawr, nos da, bona nit, fins
demà, agurrak, gero arte, ĝis, ĝis revido, vale, bless bless, góða nótt, mirupafshim, natën e mirë, tstesutyun, nakhvamdis, xayr"""
HELLO, THANKS, BYE = (tuple(" ".join(words.split()).split(", ")) for words in (_HELLO, _THANKS, _BYE))
# Words of sentences that are no greeting.
_SENTENCES = tuple(
    line.split()
    for line in """qué cómo dónde cuándo quién es está el la los una de en que mi tu quiero puedo tengo tiempo casa hoy por favor
que comment où quand qui est-ce le la les une des dans je tu nous veux peux temps maison aujourd'hui pourquoi pas s'il vous plaît
was wie wo wann wer ist sind der die das ein eine in mit ich du wir will kann habe Zeit Haus heute warum nicht bitte mir
cosa come dove quando chi è sono il la un una di che io tu voglio posso ho tempo casa oggi perché non per favore mi
o que como onde quando quem é está um uma de em eu você quero posso tenho tempo casa hoje porque não por favor
wat hoe waar wanneer wie is zijn de het een van in ik jij wil kan heb tijd huis vandaag waarom niet alsjeblieft
что как где когда кто это в на я ты мы хочу могу есть время дом сегодня почему не пожалуйста мне
co jak gdzie kiedy kto jest w na ja ty chcę mogę mam czas dom dziś dlaczego nie proszę mi""".splitlines()
)


def foreign(rng: random.Random) -> str:
    """Words of another language in no order."""
    words = rng.choice(_SENTENCES)
    return " ".join(rng.choice(words) for _ in range(rng.randint(2, 8))).capitalize() + rng.choice(("?", "?", ".", ""))
