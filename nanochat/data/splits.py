"""Splits of a dataset: by the names of files and folders; else by the hash of a document, or its tail if there are few."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from nanochat.common import UserError
from nanochat.data.file_walk import FoundFile
from nanochat.data.left_out import LeftOut
from nanochat.data.text_files import is_whole_text, kind_of

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
Role = Literal["train", "val", "hash", "tail"]
Named = Literal["train", "val", "test"]
VAL_SHARE = 0.04  # for validation, of the documents (role "hash") or of each, at its end ("tail"); more if that fills no row
SHARES = (VAL_SHARE, 2 * VAL_SHARE, 4 * VAL_SHARE, 8 * VAL_SHARE, 0.5)  # tried one after the other; each holds out what those before it do
FEW_FILES = 64  # with fewer text files, a split by hash could leave validation empty
_WORDS: dict[str, Named] = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WORDS_BESIDE_TRAIN: dict[str, Named] = {"dev": "val", "eval": "val", "evaluation": "val", "testing": "test"}
_CODE, _PROSE = (".py",), (".md", ".rst")
_SEPARATOR = re.compile(r"[-._\s()\[\]{}=,+@~]+")
_NUMBER = re.compile(r"\d+|of|[a-z0-9]{1,2}|(?=.*\d)[0-9a-f]{6,}|set\d*")  # of a shard, hash, version or language; the "set" of "test set"


def assign_roles(files: Sequence[FoundFile], explicit: bool, left_out: LeftOut) -> list[tuple[FoundFile, Role]]:
    """The role of each file; those of a test split, and second links to a file, are left out.

    `explicit`: the user named the files, so that a lone test split is wanted. Raises `UserError` if there is nothing to train on.
    """
    named = _once(files, name_splits(files), left_out)
    splits = Counter(named.values())
    if "test" in splits and not (explicit and len(splits) == 1):
        for file in [file for file, split in named.items() if split == "test"]:
            left_out.add("file", "test split", file.name)
            del named[file]
        if "train" not in splits:
            held_out = " and ".join(sorted(splits))
            raise UserError(f"no files to train on: by their names all are of a {held_out} split; name the files themselves to use them")
    by_name = len(set(named.values())) == 2
    few = sum(is_whole_text(file.path) for file in named) < FEW_FILES
    roles: list[tuple[FoundFile, Role]] = []
    for file in files:
        if file in named:
            by_size: Role = "tail" if few and is_whole_text(file.path) else "hash"
            roles.append((file, _role(named[file]) if by_name else by_size))
    return roles


def _role(split: Named) -> Role:
    return "val" if split == "val" else "train"


def _once(files: Sequence[FoundFile], splits: Sequence[Named], left_out: LeftOut) -> dict[FoundFile, Named]:
    """The splits of the files, without second paths to one: what is held out under one of its names is not trained on under another."""
    named, seen = {}, set()
    for file, split in sorted(zip(files, splits, strict=True), key=lambda pair: (pair[1] == "train", pair[0].is_linked)):
        if file.real in seen:
            left_out.add("file", "link to what is read already", file.name)
        else:
            seen.add(file.real)
            named[file] = split
    return named


def name_splits(files: Sequence[FoundFile], train_is_named: bool = False) -> list[Named]:
    """The splits that names say: `val`, `corpus-test-00001-of-00002.parquet`, `Validation/…`; train for all others.

    A word counts at the beginning or end of a name, before numbers of shards. Names of source code, of Python packages and, among
    source code, of pages of documentation are no splits: there a word says what the code does. Words such as dev and eval are splits only
    where a name says train, or with `train_is_named`.
    """
    parts = [file.name.split("/") for file in files]
    kinds = [kind_of(file.path) for file in files]
    packages = {tuple(path[:-1]) for path in parts if path[-1] == "__init__.py"}
    mute = (*_CODE, *_PROSE) if any(kind in _CODE for kind in kinds) else _CODE
    words = []
    for path, kind in zip(parts, kinds, strict=True):
        folders = [_words(name) for i, name in enumerate(path[:-1], start=1) if tuple(path[:i]) not in packages]
        words.append([*folders, () if kind in mute else _words(path[-1].lower().rpartition(kind)[0])])
    known = dict(_WORDS)
    if train_is_named or any("train" in map(known.get, pair) for path in words for pair in path):
        known |= _WORDS_BESIDE_TRAIN
    return [_split(path, known) for path in words]


def _words(name: str) -> tuple[str, ...]:
    """The last word of a name without its numbers, and the first; `test` of `testset`."""
    words = [word for word in _SEPARATOR.split(name.lower()) if word] or [""]
    while len(words) > 1 and _NUMBER.fullmatch(words[-1]):
        words.pop()
    return tuple(word.rstrip("0123456789").removesuffix("set") for word in (words[-1], words[0]))


def _split(path: Sequence[tuple[str, ...]], known: dict[str, Named]) -> Named:
    """The innermost word for what is held out decides."""
    for pair in reversed(path):
        for split in map(known.get, pair):
            if split in ("val", "test"):
                return split
    return "train"


def share(text: str, role: Role, split: Split, val_share: float = VAL_SHARE) -> str:
    """The part of a document that belongs to `split`: all, some or none of it."""
    if role == "tail":
        # At a line break shortly before the tail if there is one, so that no line is torn.
        tail = math.ceil(len(text) * (1 - val_share))
        cut = text.rfind("\n", int(len(text) * (1 - min(2 * val_share, 0.6))), tail) + 1 or tail
        return text[:cut] if split == "train" else text[cut:]
    if role == "hash":
        digest = int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")
        rank = digest % 25 * 2 + digest // 25 % 2  # of 50; below 2 for the 4 % of `VAL_SHARE`
        is_val = rank < round(50 * val_share)
        return text if is_val == (split == "val") else ""
    return text
