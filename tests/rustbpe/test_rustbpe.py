"""The Rust part by itself: threads change nothing, and bad input is a `ValueError`, never a crash."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import rustbpe
from rustbpe import Documents

BYTES = [bytes([byte]) for byte in range(256)]


def documents(*texts: str | bytes) -> Documents:
    data = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return Documents(b"".join(data), np.cumsum([0, *map(len, data)]))


def words(seed: int, number: int) -> str:
    rng = random.Random(seed)
    return "".join(
        "".join(rng.choices("etaoinshré", k=rng.randint(1, 9))) + rng.choice((" ", " ", " ", ".\n\n", " =\n  ")) for _ in range(number)
    )


@pytest.fixture(scope="module")
def vocabulary() -> rustbpe.Vocabulary:
    trainer = rustbpe.Trainer(1)
    trainer.feed(documents(words(0, 3000)))
    tokens = list(BYTES)
    for left, right in trainer.learn(300):
        tokens.append(tokens[left] + tokens[right])
    return rustbpe.Vocabulary(tokens)


def test_threads_and_batches_do_not_change_what_is_learnt() -> None:
    texts = [words(seed, 4000) for seed in range(40)] + [words(99, 120_000), "", "x"]
    learnt = []
    for threads, batches in ((1, [texts]), (3, [texts]), (2, [[text] for text in texts])):
        trainer = rustbpe.Trainer(threads)
        for batch in batches:
            trainer.feed(documents(*batch))
        learnt.append(trainer.learn(400))
    assert len(learnt[0]) == 400
    assert learnt[0] == learnt[1] == learnt[2]


def test_threads_do_not_change_the_ids(vocabulary: rustbpe.Vocabulary) -> None:
    texts = ["", words(1, 200_000), "", *(words(seed, 500) for seed in range(200)), ""]
    expected = [[7, *vocabulary.encode(text)] for text in texts]
    for threads in (1, 2, 5):
        ids, offsets = vocabulary.encode_documents(documents(*texts), np.uint32, bos=7, threads=threads)
        assert ids.dtype == np.uint32
        assert [ids[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == expected


def test_one_vocabulary_serves_many_threads(vocabulary: rustbpe.Vocabulary) -> None:
    texts = [words(seed, 300) for seed in range(40)]
    expected = [vocabulary.encode(text) for text in texts]
    wrong: list[int] = []

    def check(seed: int) -> None:
        for i in random.Random(seed).sample(range(40), 40):
            if vocabulary.encode(texts[i]) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_gil_is_free_during_a_call() -> None:
    trainer = rustbpe.Trainer(1)
    trainer.feed(documents("".join(random.Random(0).choices("abcdefgh", k=2_000_000))))
    running = threading.Thread(target=trainer.learn, args=(2000,))
    running.start()
    steps = 0
    while running.is_alive():
        time.sleep(0.001)
        steps += 1
    assert steps > 20


@pytest.mark.parametrize("bad", [b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"])
def test_what_is_not_utf8_is_refused_with_its_place(vocabulary: rustbpe.Vocabulary, bad: bytes) -> None:
    for texts in (["fine", bad, "fine"], ["fine", b"x " * 400_000 + bad]):
        with pytest.raises(ValueError, match="document 1 of the batch is not valid UTF-8"):
            rustbpe.Trainer(2).feed(documents(*texts))
        with pytest.raises(ValueError, match="document 1 of the batch is not valid UTF-8"):
            vocabulary.encode_documents(documents(*texts), np.uint16, threads=2)


def test_a_document_that_ends_inside_a_character_is_refused(vocabulary: rustbpe.Vocabulary) -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        vocabulary.encode_documents(Documents("é".encode(), np.array([0, 1, 2])), np.uint16)


@pytest.mark.parametrize("offsets", [[0, 9], [2, 1, 3], [-1, 2], [-(2**62), 2], []])
def test_offsets_outside_the_text_are_refused(vocabulary: rustbpe.Vocabulary, offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        vocabulary.encode_documents(Documents(b"text", np.array(offsets, np.int64)), np.uint16)
    with pytest.raises(ValueError, match="offsets"):
        rustbpe.Trainer(1).feed(Documents(b"text", np.array(offsets, np.int64)))


def test_a_vocabulary_with_gaps_or_repetitions_is_refused() -> None:
    with pytest.raises(ValueError, match="no token for byte 255"):
        rustbpe.Vocabulary(BYTES[:255])
    with pytest.raises(ValueError, match="token 257 is empty or a repetition"):
        rustbpe.Vocabulary([*BYTES, b"ab", b"ab"])
    with pytest.raises(ValueError, match="token 256 is empty or a repetition"):
        rustbpe.Vocabulary([*BYTES, b""])


def test_lone_surrogates_are_refused(vocabulary: rustbpe.Vocabulary) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        vocabulary.encode("\ud800")
    with pytest.raises(ValueError, match="surrogates"):
        rustbpe.split("a\udfff")


def test_nothing_is_learnt_from_nothing(vocabulary: rustbpe.Vocabulary) -> None:
    trainer = rustbpe.Trainer()
    trainer.feed(documents())
    trainer.feed(documents("", ""))
    assert trainer.learn(10) == []
    ids, offsets = vocabulary.encode_documents(documents(), np.uint16, bos=3)
    assert ids.tolist() == [] and offsets.tolist() == [0]
    assert vocabulary.encode("") == rustbpe.split("") == []


@pytest.mark.parametrize("threads", [-1, 1 << 40])
def test_a_number_of_threads_that_is_none_is_refused(vocabulary: rustbpe.Vocabulary, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        rustbpe.Trainer(threads)
    with pytest.raises(ValueError, match="threads"):
        vocabulary.encode_documents(documents("a"), np.uint16, threads=threads)


def test_a_vocabulary_may_outlive_everything_else() -> None:
    """One that the interpreter frees last, as those in a cycle, ends the process no other way."""
    code = """
import gc, sys
from nanochat.data.tokenizer import Tokenizer
class Cycle: pass
gc.disable()
cycle = Cycle()
cycle.itself, cycle.tokenizer, sys.kept = cycle, Tokenizer([]), cycle
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
