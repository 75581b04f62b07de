"""Text sources: the files of a dataset, their split into training and validation, and their fingerprint."""

from __future__ import annotations

import glob
import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nanochat.common import UserError, base_dir, digest, read_json
from nanochat.data.hub_download import HUB
from nanochat.data.local_corpus import local_corpus
from nanochat.data.text_files import SUFFIXES, is_whole_text, read_documents
from nanochat.flags import flag

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
Role = Literal["train", "val", "hash", "tail"]
VAL_EVERY = 25  # role "hash": one document in this many is for validation, 4 %
VAL_TAIL = 0.04  # role "tail": the fraction of each document, at its end, that is for validation
FEW_FILES = 64  # with fewer text files, a split by hash could leave validation empty
PART_BYTES = 128 << 20  # files are tokenized in groups of about this size
_VAL_NAME = re.compile(r"(val|valid|validation)([._-].*)?")


@dataclass
class DataFlags:
    dataset: str = flag("auto", "local | climbmix[:N] | fineweb-edu[:N] | a path or glob; auto = downloaded shards if any, else local")
    packing: Literal["bestfit", "stream"] = flag("bestfit", "bestfit = rows begin at a document; stream = rows are consecutive tokens")

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ValueError("invalid dataset '': must not be empty; use auto")


@dataclass(frozen=True)
class TextFile:
    """One input file. `role`: its documents are all for train, all for val, split by their hash, or val gets their tails."""

    path: Path
    size: int  # bytes
    mtime_ns: int
    role: Role


@dataclass
class Skipped:
    """Number of documents left out, by reason."""

    not_utf8: int = 0
    empty: int = 0


@dataclass(frozen=True)
class SourcePart:
    """Consecutive files of about `PART_BYTES` whose documents are tokenized together."""

    files: tuple[TextFile, ...]
    split: Split

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed, moved or rewritten. Reads no file."""
        return digest(self.split, *((str(f.path), f.size, f.mtime_ns, f.role) for f in self.files))

    def documents(self, skipped: Skipped) -> Iterator[str]:
        """The documents in order; counts those left out in `skipped`. Raises `UserError` for a damaged file."""
        for file in self.files:
            for text in read_documents(file.path):
                if text is None:
                    skipped.not_utf8 += 1
                elif not text:
                    skipped.empty += 1
                elif share := _share(text, file.role, self.split):
                    yield share


@dataclass
class Source:
    """Text with a name. `extra`: further values for `describe`."""

    name: str
    files: tuple[TextFile, ...]
    extra: dict = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return digest(*(part.fingerprint for split in SPLITS for part in self.parts(split)))

    def parts(self, split: Split) -> list[SourcePart]:
        """The files of `split`, in parts. More files at the end change only the last part."""
        parts: list[list[TextFile]] = []
        for file in self.files:
            if file.role in (split, "hash", "tail"):
                if not parts or sum(f.size for f in parts[-1]) + file.size > PART_BYTES:
                    parts.append([])
                parts[-1].append(file)
        return [SourcePart(tuple(files), split) for files in parts]

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split in order. Raises `UserError` for a damaged file."""
        return itertools.chain.from_iterable(part.documents(Skipped()) for part in self.parts(split))

    def describe(self) -> dict:
        """Plain values for reports: name, fingerprint, files, bytes on disk and `extra`."""
        size = sum(file.size for file in self.files)
        return {"dataset": self.name, "fingerprint": self.fingerprint, "files": len(self.files), "file_bytes": size, **self.extra}


def open_source(name: str) -> Source:
    """The source `name`, see `DataFlags.dataset`; `climbmix:8` is its first 8 training shards and the validation shard.

    Raises `UserError` if there is no such text.
    """
    if name == "auto":
        name = next((hub for hub in HUB if any(shard_folder(hub).glob("shard_*.parquet"))), "local")
    if name == "local":
        folder = local_corpus()
        return Source(name, tuple(_text_file(folder / f"{split}.parquet", split) for split in SPLITS), read_json(folder / "corpus.json"))
    hub, colon, count = name.partition(":")
    if hub in HUB:
        if colon and not (count.isdecimal() and int(count) > 0):
            raise UserError(f"invalid --dataset {name}: expected a number of shards after the colon, as in {hub}:8")
        return _downloaded_source(hub, int(count) if colon else None)
    return _path_source(name)


def shard_folder(hub: str) -> Path:
    """Folder of the shards of a downloaded dataset."""
    return base_dir() / "data" / hub


def _downloaded_source(name: str, count: int | None) -> Source:
    hub, folder = HUB[name], shard_folder(name)
    val = folder / hub.shard_name(hub.val_shard)
    here = sorted(path for path in folder.glob("shard_*.parquet") if path != val)
    wanted = here if count is None else [folder / hub.shard_name(i) for i in range(count)]
    missing = [path.name for path in (*wanted, val) if not path.exists()]
    if missing or not wanted:
        lacks = f"{missing[0]} is missing" if missing else "no shards"
        raise UserError(f"{lacks} in {folder}; run: python -m nanochat.dataset --dataset {name} -n {len(wanted) or 1}")
    files = (*(_text_file(path, "train") for path in wanted), _text_file(val, "val"))
    return Source(name, files, {"train_shards": len(wanted), "val_shard": val.name})


def _path_source(name: str) -> Source:
    root = Path(name).expanduser()
    if root.is_dir():
        paths = sorted(path for path in root.rglob("*") if path.is_file() and _is_readable(path, root))
    elif root.is_file():
        root, paths = root.parent, [root]
    else:
        paths = sorted(Path(p) for p in glob.glob(str(root), recursive=True) if Path(p).is_file())
        if not paths:
            raise UserError(f"invalid --dataset {name}: no file or folder matches; expected a path, a glob, local, {', '.join(HUB)}")
        root = Path(os.path.commonpath([path.parent for path in paths]))
    unknown = [path for path in paths if not path.name.lower().endswith(SUFFIXES)]
    if unknown:
        raise UserError(f"{unknown[0]}: unknown file type; expected one of {' '.join(SUFFIXES)}")
    if not any(path.stat().st_size for path in paths):
        raise UserError(f"--dataset {name} holds no text; it needs non-empty files of type {' '.join(SUFFIXES)}")
    return Source(name, tuple(_with_roles(paths, root)))


def _is_readable(path: Path, root: Path) -> bool:
    hidden = any(component.startswith(".") for component in path.relative_to(root).parts)
    return not hidden and path.name.lower().endswith(SUFFIXES)


def _with_roles(paths: list[Path], root: Path) -> Iterator[TextFile]:
    """Files or folders named val… are the validation split, if there are any; else documents are split."""

    def is_val(path: Path) -> bool:
        return any(_VAL_NAME.fullmatch(component) for component in path.relative_to(root).parts)

    named = len({is_val(path) for path in paths}) == 2
    few = sum(is_whole_text(path) for path in paths) < FEW_FILES
    for path in paths:
        if named:
            yield _text_file(path, "val" if is_val(path) else "train")
        else:
            yield _text_file(path, "tail" if few and is_whole_text(path) else "hash")


def _text_file(path: Path, role: Role) -> TextFile:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; delete its folder to make it again") from error
    return TextFile(path.resolve(), stat.st_size, stat.st_mtime_ns, role)


def _share(text: str, role: Role, split: Split) -> str:
    """The part of a document that belongs to `split`: all, some or none of it."""
    if role == "tail":
        # At a line break shortly before the tail if there is one, so that no line is torn.
        tail = math.ceil(len(text) * (1 - VAL_TAIL))
        cut = text.rfind("\n", int(len(text) * (1 - 2 * VAL_TAIL)), tail) + 1 or tail
        return text[:cut] if split == "train" else text[cut:]
    if role == "hash":
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
        is_val = int.from_bytes(digest, "little") % VAL_EVERY == 0
        return text if is_val == (split == "val") else ""
    return text
