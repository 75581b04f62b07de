"""Text sources: the files of a dataset with their part in training and validation, and their fingerprint."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nanochat.common import UserError, base_dir, digest, read_json, shown, typed_path
from nanochat.data.file_walk import FoundFile, find_files
from nanochat.data.hub_download import HUB
from nanochat.data.left_out import EMPTY, NOT_TEXT, LeftOut
from nanochat.data.local_corpus import local_corpus
from nanochat.data.splits import SHARES, SPLITS, VAL_SHARE, Role, Split, assign_roles, share
from nanochat.data.text_files import COLUMN, KNOWN_TYPES, UnfitError, is_whole_text, kind_of, read_documents
from nanochat.data.text_streams import looks_like
from nanochat.flags import flag

PART_BYTES = 128 << 20  # files are tokenized in groups of about this size
SURELY_TAILS = 1 << 12  # bytes of text that are not searched for a tail
_OFTEN_OTHER = (".json", ".csv", ".tsv")  # types of settings and tables too: those without text are left out of a folder


@dataclass
class DataFlags:
    dataset: str = flag("auto", "local | climbmix[:N] | fineweb-edu[:N] | a path or glob; auto = downloaded shards if any, else local")
    text_column: str = flag(COLUMN, "key or column of the text in JSON, CSV and parquet files; dots reach nested ones, as in meta.text")
    packing: Literal["bestfit", "stream"] = flag("bestfit", "bestfit = rows begin at a document; stream = rows are consecutive tokens")

    def __post_init__(self) -> None:
        for name in ("dataset", "text_column"):
            if not getattr(self, name):
                raise ValueError(f"invalid {name} '': must not be empty")


@dataclass(frozen=True)
class TextFile:
    """One input file. `role`: its documents are all for train, all for val, split by their hash, or val gets their tails.

    `val_share`: how much of them is for val, if they are split.
    """

    path: Path  # as it was found, since the name says the type
    real: str  # with all links resolved
    name: str  # relative to the dataset
    size: int  # bytes
    mtime_ns: int
    role: Role
    val_share: float = VAL_SHARE

    @property
    def identity(self) -> tuple[object, ...]:
        """What the tokens depend on; with the type if only the name of a link says it."""
        is_own = os.path.basename(self.real) == self.path.name or kind_of(Path(self.real)) == kind_of(self.path)
        share = () if self.val_share == VAL_SHARE else (self.val_share,)
        return (self.real, self.size, self.mtime_ns, self.role, *share, *(() if is_own else (kind_of(self.path),)))


@dataclass(frozen=True)
class SourcePart:
    """Consecutive files of about `PART_BYTES` whose documents are tokenized together."""

    files: tuple[TextFile, ...]
    split: Split
    column: str = COLUMN

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed, moved or rewritten. Reads no file."""
        column = () if self.column == COLUMN else (("column", self.column),)
        return digest(self.split, *(file.identity for file in self.files), *column)

    def documents(self, left_out: LeftOut) -> Iterator[str]:
        """The documents in order; counts those left out in `left_out`, once for both splits. Raises `UserError` for a damaged file."""
        for file in self.files:
            counts = self.split == "train" or file.role == "val"
            if not file.size and counts:
                left_out.add("file", EMPTY, file.name)
            for text in read_documents(file.path, self.column) if file.size else ():
                if text:
                    if part := share(text, file.role, self.split, file.val_share):
                        yield part
                elif counts:
                    _leave_out(left_out, file, text)


def _leave_out(left_out: LeftOut, file: TextFile, text: str | None) -> None:
    def hint() -> str:
        encoding = looks_like(file.path) if text is None else ""
        return encoding and f"looks like {encoding}"

    left_out.add("file" if is_whole_text(file.path) else "document", EMPTY if text is not None else NOT_TEXT, file.name, hint=hint)


@dataclass
class Source:
    """Text with a name. `left_out`: files that are not read; `extra`: further values for `describe`."""

    name: str
    files: tuple[TextFile, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    column: str = COLUMN
    left_out: LeftOut = field(default_factory=LeftOut)

    @cached_property
    def fingerprint(self) -> str:
        return digest(*(part.fingerprint for split in SPLITS for part in self.parts(split)))

    def parts(self, split: Split) -> list[SourcePart]:
        """The files of `split`, in parts. More files at the end change only the last part."""
        parts: list[list[TextFile]] = []
        size = 0
        for file in self.files:
            if file.role in (split, "hash", "tail"):
                if not parts or size + file.size > PART_BYTES:
                    parts.append([])
                    size = 0
                parts[-1].append(file)
                size += file.size
        return [SourcePart(tuple(files), split, self.column) for files in parts]

    def split_otherwise(self, role: Role, val_share: float) -> Source:
        """The same files, all of them split in this way."""
        return replace(self, files=tuple(replace(file, role=role, val_share=val_share) for file in self.files))

    def documents(self, split: Split, left_out: LeftOut | None = None) -> Iterator[str]:
        """The documents of a split in order; counts those left out in `left_out`.

        Raises `UserError` for a damaged file, and if there are no documents.
        """
        left_out = LeftOut() if left_out is None else left_out
        documents = itertools.chain.from_iterable(part.documents(left_out) for part in self.parts(split))
        first = next(documents, None)
        if first is None:
            raise self.without_documents(split, left_out)
        yield first
        yield from documents

    def whole_documents(self) -> Iterator[str]:
        """The documents of both splits, uncut."""
        return (text for file in self.files if file.size for text in read_documents(file.path, self.column) if text)

    def without_documents(self, split: Split, left_out: LeftOut) -> UserError:
        """The error that a split has no documents; it names what was left out."""
        lost = (self.left_out + left_out).line
        return UserError(f"{self.name} has no documents for {split}{lost and f' ({lost})'}; add documents in UTF-8, or files named {split}")

    def describe(self) -> dict[str, Any]:
        """Plain values for reports: name, fingerprint, files, bytes on disk and `extra`."""
        size = sum(file.size for file in self.files)
        column = {} if self.column == COLUMN else {"text_column": self.column}
        values = {"dataset": self.name, "fingerprint": self.fingerprint, "files": len(self.files), "file_bytes": size}
        return {**values, **column, **self.extra}


def open_source(name: str, column: str = COLUMN) -> Source:
    """The source `name`, see `DataFlags`; `climbmix:8` is its first 8 training shards and the validation shard.

    Raises `UserError` if there is no such text.
    """
    if name == "auto":
        name = next((hub for hub in HUB if any(shard_folder(hub).glob("shard_*.parquet"))), "local")
    if name == "local":
        folder = local_corpus()
        files = tuple(_text_file(folder / f"{split}.parquet", split) for split in SPLITS)
        return Source(name, files, read_json(folder / "corpus.json"), column)
    hub, colon, count = name.partition(":")
    if hub in HUB:
        if colon and not (count.isdecimal() and int(count) > 0):
            raise UserError(f"invalid --dataset {name}: expected a number of shards after the colon, as in {hub}:8")
        return _downloaded_source(hub, int(count) if colon else None, column)
    try:
        return _path_source(name, column)
    except OSError as error:
        raise UserError(f"cannot read --dataset {name}: {error.strerror}") from error


def open_recorded(flags: Mapping[str, Any]) -> Source:
    """The source of a run by its recorded `DataFlags`."""
    return open_source(flags["dataset"], flags.get("text_column", COLUMN))


def shard_folder(hub: str) -> Path:
    """Folder of the shards of a downloaded dataset."""
    return base_dir() / "data" / hub


def _downloaded_source(name: str, count: int | None, column: str) -> Source:
    hub, folder = HUB[name], shard_folder(name)
    val = folder / hub.shard_name(hub.val_shard)
    here = sorted(path for path in folder.glob("shard_*.parquet") if path != val)
    wanted = here if count is None else [folder / hub.shard_name(i) for i in range(count)]
    missing = [path.name for path in (*wanted, val) if not path.exists()]
    if missing or not wanted:
        lacks = f"{missing[0]} is missing" if missing else "no shards"
        raise UserError(f"{lacks} in {folder}; run: python -m nanochat.dataset --dataset {name} -n {len(wanted) or 1}")
    files = (*(_text_file(path, "train") for path in wanted), _text_file(val, "val"))
    return Source(name, files, {"train_shards": len(wanted), "val_shard": val.name}, column)


def _text_file(path: Path, role: Role) -> TextFile:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; delete its folder to make it again") from error
    return TextFile(path, str(path.resolve()), path.name, stat.st_size, stat.st_mtime_ns, role)


def _path_source(name: str, column: str) -> Source:
    left_out = LeftOut()
    found, explicit = find_files(name, left_out)
    if not found and not left_out.reasons and not typed_path(name).is_dir():
        raise UserError(f"invalid --dataset {name}: no file or folder matches; expected a path, a glob, local, {', '.join(HUB)}")
    alone = explicit and len(found) == 1
    if alone and kind_of(found[0].path) is None:
        raise UserError(f"{found[0].path}: unknown file type; expected one of {KNOWN_TYPES}")
    files = [file for file in found if alone or _is_fit(file, column, left_out)]
    read = {file.real for file in files}  # the blobs of a cache have no type, but the links to them do
    for file in found:
        if kind_of(file.path) is None and file.real not in read:
            left_out.add("file", "unknown type", file.name)
    if not any(file.size for file in files):
        lost = f"; {left_out.line}" if left_out.reasons else ""
        raise UserError(f"--dataset {name} holds no text; it needs non-empty files of type {KNOWN_TYPES}{lost}")
    text_files = [
        TextFile(file.path, file.real, file.name, file.size, file.mtime_ns, role) for file, role in assign_roles(files, explicit, left_out)
    ]
    source = Source(shown(name), tuple(text_files), {}, column, left_out)
    if _has_both(source):
        return source
    others = (source.split_otherwise(role, share) for share in SHARES for role in ("tail", "hash"))
    return next(filter(_has_both, others), source)


def _is_fit(file: FoundFile, column: str, left_out: LeftOut) -> bool:
    """Whether a file of a folder is of a known type, and has text if files of its type often have none."""
    kind = kind_of(file.path)
    if kind is None:
        return False
    if not os.access(file.path, os.R_OK):
        raise UserError(f"cannot read {file.path}: permission denied; change its permissions, or move it out of the dataset")
    if kind in _OFTEN_OTHER:
        try:
            if next(read_documents(file.path, column), EMPTY) is EMPTY:
                left_out.add("file", EMPTY, file.name)
                return False
        except UnfitError as unfit:
            hint = f"with {unfit.found}" if unfit.found else ""
            left_out.add("file", unfit.why, file.name, hint=lambda: hint)
            return False
    return True


def _has_both(source: Source) -> bool:
    """False if a split by content leaves training or validation without text. Reads until it finds some of both."""
    files = [file for file in source.files if file.size]
    roles = {file.role for file in files}
    if roles - {"hash", "tail"} or ("tail" in roles and sum(file.size for file in files) > SURELY_TAILS):
        return True
    found: set[Split] = set()
    for file in files:
        for text in read_documents(file.path, source.column):
            found.update(split for split in SPLITS if text and share(text, file.role, split, file.val_share))
            if len(found) == len(SPLITS):
                return True
    return not found
