"""Our tokenizer in the format of Hugging Face's `tokenizers` and `transformers`, with the same ids.

Two things are spelled out that `tokenizers` would decide differently. It merges only listed pairs, while ours merges any two tokens
that spell a third: so all such pairs are listed. Its regular expressions know fewer letters, of an older Unicode: so the pattern names
the characters of each class.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

import rustbpe
from nanochat.data.tokenizer import Tokenizer

BOS = "<|bos|>"


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json`. Ids begin with BOS, unless special tokens are not to be added."""
    tokens = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size - len(tokenizer.special_tokens))]
    spelled = [_spelled(token) for token in tokens]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **_added_token(name)} for name, i in tokenizer.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split_pattern()}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special(BOS), _sequence("A", 0)],
            "pair": [_special(BOS), _sequence("A", 0), _sequence("B", 1)],
            "special_tokens": {BOS: {"id": BOS, "ids": [tokenizer.bos_id], "tokens": [BOS]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token is that token
            "vocab": {text: i for i, text in enumerate(spelled)},
            "merges": [[_spelled(left), _spelled(right)] for left, right in merges(tokens)],
        },
    }


def tokenizer_config(tokenizer: Tokenizer, eos: str, max_seq_len: int, auto_map: dict[str, Any]) -> dict[str, Any]:
    """The content of a `tokenizer_config.json`. Rows are padded on the left, with `eos`."""
    named = {"bos_token": BOS, "eos_token": eos, "pad_token": eos}
    return {
        **named,
        "additional_special_tokens": [name for name in tokenizer.special_tokens if name not in named.values()],
        "added_tokens_decoder": {str(i): _added_token(name) for name, i in tokenizer.special_tokens.items()},
        "auto_map": auto_map,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_seq_len,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def merges(tokens: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """All pairs of `tokens` that spell another one, in the order of the ids of those."""
    known = set(tokens)
    for token in tokens:
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield token[:cut], token[cut:]


@functools.cache
def split_pattern() -> str:
    """`nanochat.data.tokenizer.PATTERN` with its classes written out as ranges of characters."""
    letters, numbers, spaces = map(_ranges, character_classes())
    words = f"[^\\r\\n{letters}{numbers}]?[{letters}]+"
    symbols = f" ?[^{spaces}{letters}{numbers}]+[\\r\\n]*"
    blanks = f"[{spaces}]*[\\r\\n]|[{spaces}]+(?![^{spaces}])|[{spaces}]+"
    return f"'(?:[sdmtSDMTſ]|[lL][lL]|[vV][eE]|[rR][eE])|{words}|[{numbers}]{{1,2}}|{symbols}|{blanks}"


def character_classes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code points of letters, numbers and white space, each ascending, as `rustbpe` splits by them."""
    planes = [[c for c in range(start, start + 0x10000) if not 0xD800 <= c < 0xE000] for start in range(0, 0x110000, 0x10000)]
    return tuple(map(np.concatenate, zip(*map(_classes_among, planes), strict=True)))


def _classes_among(plane: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = np.array(plane)
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)  # in UTF-8
    starts = np.cumsum(sizes + 2) - sizes - 1  # of each character, with one before it and one after it
    # Between "a" and "1" a letter joins the one, a number the other; before "!" only white space does not join it.
    between = _ends("".join([f"a{chr(c)}1" for c in plane]))
    before = _ends("".join([f"a{chr(c)}!" for c in plane]))
    letter, number = ~between[starts], ~between[starts + sizes]
    space = before[starts + sizes] & ~letter & ~number | (points == ord(" "))
    return points[letter], points[number], points[space]


def _ends(text: str) -> np.ndarray:
    """bool, True at the bytes of `text` before which a piece ends."""
    pieces = np.array([len(piece.encode()) for piece in rustbpe.split(text)])
    ends = np.zeros(pieces.sum() + 1, dtype=bool)
    ends[np.cumsum(pieces)] = True
    return ends


def _ranges(points: np.ndarray) -> str:
    """Code points as the inside of a class of characters."""
    runs = np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)
    return "".join(chr(run[0]) + (f"-{chr(run[-1])}" if len(run) > 1 else "") for run in runs)


def _spelled(token: bytes) -> str:
    """Bytes as `tokenizers` spells them: each a printable character."""
    return "".join(_BYTES[byte] for byte in token)


def _byte_characters() -> list[str]:
    """The character of each byte in GPT-2's alphabet: printable Latin-1 as it is, the others in order from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


_BYTES = _byte_characters()


def _added_token(name: str) -> dict[str, Any]:
    return {"content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _sequence(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}
