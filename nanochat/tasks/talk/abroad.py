"""Hello, thanks and goodbye in many languages and in slang, and words of other languages that the model does not speak."""

from __future__ import annotations

import random

_HELLO = """hola, buenos días, buenas tardes, buenas, qué tal, bonjour, bonsoir, salut, coucou, allô, hallo, moin, servus, grüezi,
grüß Gott,
guten Tag, guten Morgen, guten Abend, ciao, buongiorno, buonasera, salve, olá, oi, bom dia, boa tarde, e aí, hej, hejsan, tjena, god dag,
hei, god morgen, moi, terve, tere, labas, sveiki, cześć, dzień dobry, ahoj, dobrý den, nazdar, szia, jó napot, bună ziua, zdravo, dobar dan,
привет, здравствуйте, добрый день, привіт, здравей, privet, zdravstvuyte, merhaba, selam, günaydın, γεια σου, kalimera, yassou, shalom,
שלום, salam, salaam alaikum, assalamu alaikum, marhaba, مرحبا, ahlan, namaste, namaskar, नमस्ते, vanakkam, sat sri akal, adaab, ayubowan,
ni hao, nihao, 你好, 您好, nei hou, konnichiwa, こんにちは, ohayo, konbanwa, moshi moshi, annyeong, annyeonghaseyo, 안녕하세요, sawasdee,
xin chào, halo, selamat pagi, apa kabar, kumusta, jambo, habari, sawubona, mambo, aloha, kia ora, bula, saluton, hoi, goedemorgen,
goedendag, dag, dia duit, haló, bore da, kaixo, bon dia, përshëndetje, barev, gamarjoba"""
_THANKS = """gracias, muchas gracias, mil gracias, merci, merci beaucoup, merci bien, danke, danke schön, vielen Dank, danke dir, grazie,
grazie mille, obrigado, obrigada, valeu, dank je, dank u wel, bedankt, tack, tack så mycket, takk, tusen takk, tak, mange tak, kiitos,
aitäh, ačiū, paldies, dziękuję, dzięki, děkuji, díky, köszönöm, mulțumesc, hvala, спасибо, spasibo, дякую, благодаря, teşekkürler, sağ ol,
efharisto, ευχαριστώ, toda, תודה, shukran, شكرا, dhanyavad, shukriya, nandri, धन्यवाद, xie xie, 谢谢, arigato, arigatou gozaimasu,
ありがとう, gamsahamnida, 감사합니다, khop khun, cảm ơn, terima kasih, makasih, salamat, asante, mahalo, gràcies, eskerrik asko, diolch"""
_BYE = """adiós, hasta luego, hasta mañana, nos vemos, chao, chau, au revoir, à bientôt, à demain, salut, adieu, tschüss, tschüs,
auf Wiedersehen, bis bald, bis morgen, gute Nacht, arrivederci, a presto, buonanotte, tchau, até logo, até amanhã, adeus, boa noite,
tot ziens, doei, hej då, god natt, ha det, farvel, hei hei, näkemiin, head aega, do widzenia, na razie, pa pa, na shledanou, viszlát,
la revedere, doviđenja, пока, до свидания, poka, до побачення, görüşürüz, hoşça kal, güle güle, αντίο, lehitraot, ma'a salama, khuda hafiz,
alvida, phir milenge, zai jian, 再见, sayonara, さようなら, ja ne, annyeonghi, tạm biệt, sampai jumpa, dadah, paalam, kwaheri, aloha,
slán, hwyl, adéu, agur"""
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
