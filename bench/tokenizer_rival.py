"""Worker that trains with another library on request; a process of its own, as PyPI's `rustbpe` has our module's name.

`python tokenizer_rival.py LIBRARY TEXTS VOCAB_SIZE PATTERN`, with the library's folder in PYTHONPATH. TEXTS is a JSON list.
For every line on stdin it trains once and prints a line with the seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def train_rustbpe(texts: list[str], vocab_size: int, pattern: str) -> None:
    import rustbpe

    rustbpe.Tokenizer().train_from_iterator(iter(texts), vocab_size, pattern=pattern)


def train_tokenizers(texts: list[str], vocab_size: int, pattern: str) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))


def main() -> None:
    library, path, vocab_size, pattern = sys.argv[1:]
    train = {"rustbpe": train_rustbpe, "tokenizers": train_tokenizers}[library]
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    for _ in sys.stdin:
        start = time.perf_counter()
        train(texts, int(vocab_size), pattern)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
