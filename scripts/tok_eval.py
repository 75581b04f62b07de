"""Measures the compression of the tokenizer: `python -m scripts.tok_eval`. Compares with GPT-2 and GPT-4 if these are cached."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.common import UserError
from nanochat.data.sources import DataFlags, open_source
from nanochat.data.tokenizer import Tokenizer, load_tokenizer
from nanochat.flags import flag, parse, part, run
from nanochat.report.sections import section

# One short text of each kind, among them kinds that the training data may lack.
TEXTS = {
    "english": (
        "The lighthouse keeper counted the ships each evening and wrote their names in a ledger bound in green cloth. On clear"
        " nights he could tell a schooner from a ketch at nine miles; in fog he listened instead. \"It isn't the sea that's"
        ' patient," he used to say, "it\'s the rocks." Nobody who heard him thought that he\'d meant it as a joke.\n'
    ),
    "code": (
        "class RingBuffer:\n    def __init__(self, capacity: int) -> None:\n        self.items = [None] * capacity\n"
        "        self.start, self.size = 0, 0\n\n    def push(self, item):\n        end = (self.start + self.size) % len(self.items)\n"
        "        self.items[end] = item\n        if self.size < len(self.items):\n            self.size += 1\n        else:\n"
        "            self.start = (self.start + 1) % len(self.items)\n"
    ),
    "numbers": (
        "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597\n3.14159265358979 * 2.71828182845905 = 8.53973422267357\n"
        "2026-11-20T06:21:10Z  0x1F4A9  1e-10  $4,096.00  99.9 %\n| 7 | 0.125 | -31.5 |\n| 8 | 0.0625 | 1024 |\n"
    ),
    "german": (
        "Der Zug nach Lübeck fährt heute ausnahmsweise von Gleis sieben. Wer früh genug da ist, bekommt noch einen Fensterplatz"
        " und sieht, wie hinter den Gärten die ersten Segel größer werden.\n"
    ),
    "russian": "Утром выпал снег, и город стал тише. Дети шли в школу медленнее, чем обычно, потому что каждый куст надо было потрясти.\n",
    "chinese": "清晨的市场已经热闹起来,卖豆腐的老人和往常一样坐在桥边。雨停了,石板路上映着灯笼的光。\n",
    "hindi": "नदी के किनारे एक पुराना पेड़ है। गाँव के लोग शाम को उसके नीचे बैठकर दिन भर की बातें करते हैं।\n",
    "emoji": "Done 🎉🎉 — see you at 8 👩‍🔬🧪? ☕️ → 🍰 (≈ 3 €) ✓✓\n",
}

# Files from which tiktoken builds an encoding; it caches each under the SHA-1 of its URL.
_STORE = "https://openaipublic.blob.core.windows.net"
RIVALS = {
    "gpt2": (f"{_STORE}/gpt-2/encodings/main/vocab.bpe", f"{_STORE}/gpt-2/encodings/main/encoder.json"),
    "cl100k_base": (f"{_STORE}/encodings/cl100k_base.tiktoken",),
}


@dataclass
class TokEval:
    """Measure bytes per token on several kinds of text."""

    data: DataFlags = part(DataFlags)
    val_chars: int = flag(2_000_000, "amount of the validation split to measure", unit="characters")

    def __post_init__(self) -> None:
        if self.val_chars < 1:
            raise ValueError(f"invalid val_chars {self.val_chars}: must be at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(TokEval, argv)
    tokenizer = load_tokenizer()
    source = open_source(config.data.dataset, config.data.text_column)
    kinds = {kind: [text] for kind, text in TEXTS.items()}
    kinds[f"{source.name} (val)"] = list(_beginning(source.documents("val"), config.val_chars))
    ours = {kind: bytes_per_token(texts, _checked(tokenizer)) for kind, texts in kinds.items()}
    columns = {"ours": ours}
    for name, addresses in RIVALS.items():
        if not all(_is_here(address) for address in addresses):
            print(f"{name}: not cached (`tiktoken.get_encoding({name!r})` downloads it to {_cache_folder()})")
            continue
        import tiktoken

        encode = tiktoken.get_encoding(name).encode_ordinary
        columns[name] = {kind: bytes_per_token(texts, encode) for kind, texts in kinds.items()}
    width = max(map(len, kinds))
    print(f"{'bytes per token':{width}}" + "".join(f"{name:>13}" for name in columns))
    for kind in kinds:
        print(f"{kind:{width}}" + "".join(f"{column[kind]:13.2f}" for column in columns.values()))
    values = {name: {kind: round(value, 3) for kind, value in column.items()} for name, column in columns.items()}
    section("tokenizer_evaluation", {"vocab_size": tokenizer.vocab_size, "bytes_per_token": values})
    return 0


def bytes_per_token(texts: Sequence[str], encode: Callable[[str], list[int]]) -> float:
    """UTF-8 bytes per token of `texts`."""
    tokens = sum(len(encode(text)) for text in texts)
    if tokens == 0:
        raise UserError("no text to measure; use another --dataset")
    return sum(len(text.encode()) for text in texts) / tokens


def _checked(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    def encode(text: str) -> list[int]:
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids) != text:
            raise UserError(f"the tokenizer changes text: {text[:60]!r}… is not decoded as it was encoded; train it again")
        return ids

    return encode


def _beginning(texts: Iterable[str], max_chars: int) -> Iterator[str]:
    """The first texts, up to the one with character number `max_chars`."""
    left = max_chars
    for text in texts:
        yield text
        left -= len(text)
        if left <= 0:
            return


def _cache_folder() -> Path:
    chosen = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / "data-gym-cache"


def _is_here(address: str) -> bool:
    return (_cache_folder() / hashlib.sha1(address.encode()).hexdigest()).exists()


if __name__ == "__main__":
    run(main)
