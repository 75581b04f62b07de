"""Hello, thanks and goodbye in many languages, the best known first; and words of sentences that are none of these."""

from __future__ import annotations

import random

_HELLO = """hola, bonjour, hallo, ciao, olá, namaste, salut, guten Tag, konnichiwa, ni hao, привет, hej, salam, shalom, buenos días,
buongiorno, merhaba, aloha, oi, guten Morgen, bom dia, hei, moin, buenas tardes, bonsoir, marhaba, ahoj, privet, servus, buonasera, 你好,
annyeong, cześć, salve, buenas, qué tal, coucou, allô, grüezi, grüß Gott, guten Abend, boa tarde, e aí, hejsan, tjena, god dag,
god morgen, moi, terve, tere, labas, sveiki, dzień dobry, dobrý den, nazdar, szia, jó napot, bună ziua, zdravo, dobar dan, здравствуйте,
добрый день, привіт, здравей, zdravstvuyte, selam, günaydın, γεια σου, kalimera, yassou, שלום, salaam alaikum, assalamu alaikum, مرحبا,
ahlan, namaskar, नमस्ते, vanakkam, sat sri akal, adaab, ayubowan, nihao, 您好, nei hou, こんにちは, ohayo, konbanwa, moshi moshi,
annyeonghaseyo, 안녕하세요, sawasdee, xin chào, halo, selamat pagi, apa kabar, kumusta, jambo, habari, sawubona, mambo, kia ora, bula,
saluton, hoi, goedemorgen, goedendag, dag, dia duit, haló, bore da, kaixo, bon dia, përshëndetje, barev, gamarjoba"""
_THANKS = """gracias, merci, danke, grazie, obrigado, arigato, спасибо, muchas gracias, merci beaucoup, danke schön, tack, obrigada,
vielen Dank, grazie mille, xie xie, spasibo, shukran, dhanyavad, dank je, kiitos, mil gracias, merci bien, danke dir, valeu, dank u wel,
bedankt, tack så mycket, takk, tusen takk, tak, mange tak, aitäh, ačiū, paldies, dziękuję, dzięki, děkuji, díky, köszönöm, mulțumesc,
hvala, дякую, благодаря, teşekkürler, sağ ol, efharisto, ευχαριστώ, toda, תודה, شكرا, shukriya, nandri, धन्यवाद, 谢谢, arigatou gozaimasu,
ありがとう, gamsahamnida, 감사합니다, khop khun, cảm ơn, terima kasih, makasih, salamat, asante, mahalo, gràcies, eskerrik asko, diolch"""
_BYE = """adiós, au revoir, tschüss, sayonara, hasta luego, arrivederci, tchau, auf Wiedersehen, пока, à bientôt, até logo, nos vemos,
bis bald, chao, buonanotte, hej då, gute Nacht, tot ziens, do widzenia, hasta mañana, chau, à demain, salut, adieu, tschüs, bis morgen,
a presto, até amanhã, adeus, boa noite, doei, god natt, ha det, farvel, hei hei, näkemiin, head aega, na razie, pa pa, na shledanou,
viszlát, la revedere, doviđenja, до свидания, poka, до побачення, görüşürüz, hoşça kal, güle güle, αντίο, lehitraot, ma'a salama,
khuda hafiz, alvida, phir milenge, zai jian, 再见, さようなら, ja ne, annyeonghi, tạm biệt, sampai jumpa,
dadah, paalam, kwaheri, aloha, slán,
hwyl, adéu, agur"""
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
