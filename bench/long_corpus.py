"""Corpus of long documents with long-range references: the concatenated modules of installed Python packages.

A document is a package, or a sub-package of a large one: its source files, each under a line with its name and, if imports have an
order, after the files that it imports. So most names that a line uses were defined earlier in the document, often thousands of
tokens before. Validation consists of whole packages that are not in the training split.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import UserError, atomic_write, ensure_dir, read_json, write_json

DOCUMENT_BYTES = 1 << 18  # larger packages are divided into sub-packages, and larger folders into parts
SHORT_BYTES = 1 << 14  # shorter documents are left out
VAL_SHARE = 0.04
# Copies of other packages, which may be held out.
_VENDORED = re.compile(r"_?vendor(ed)?|third_party|extern(al)?|__pycache__|.*-packages|.*\.(dist|egg)-info")
_FROM = re.compile(r"^[ \t]*from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([\w., \t]+)", re.MULTILINE)


@dataclass(frozen=True)
class Document:
    """Document with the dotted path of its folder as `name`, and its top-level `package`."""

    name: str
    package: str
    text: str


def installed_roots() -> list[Path]:
    """Package folders of the running Python: the standard library and the installed packages."""
    return [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib")]


def write_corpus(folder: Path, roots: Sequence[Path]) -> dict[str, Any]:
    """Writes `train.jsonl` and `val.jsonl` into `folder`, unless they exist, and returns a summary.

    Raises `UserError` if the roots have too few packages to hold some out for validation.
    """
    summary = folder / "corpus.json"
    if summary.exists():
        return read_json(summary)
    documents = sorted(collect(roots), key=lambda document: _digest(document.name))
    held_out = validation_packages(documents)
    splits = {"train": [d for d in documents if d.package not in held_out], "val": [d for d in documents if d.package in held_out]}
    if not all(splits.values()):
        raise UserError(f"{', '.join(map(str, roots))}: {len(documents)} long documents are too few for training and validation")
    ensure_dir(folder)
    figures: dict[str, Any] = {"python": platform.python_version(), "held_out_packages": sorted(held_out)}
    for split, chosen in splits.items():
        lines = [json.dumps({"name": d.name, "text": d.text}, ensure_ascii=False) for d in chosen]
        atomic_write(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
        figures[split] = {
            "documents": len(chosen),
            "packages": len({d.package for d in chosen}),
            "bytes": sum(len(d.text.encode()) for d in chosen),
        }
    write_json(summary, figures)
    return figures


def collect(roots: Iterable[Path]) -> Iterator[Document]:
    """Long documents below `roots`, without duplicate files and files that are not UTF-8."""
    seen: set[bytes] = set()
    for root in roots:
        for top in sorted(root.iterdir()):
            if top.is_dir() and not _VENDORED.fullmatch(top.name) and not top.name.startswith("."):
                yield from _documents(root, top.name, _sources(root, top), seen)


def validation_packages(documents: Sequence[Document]) -> set[str]:
    """Packages with `VAL_SHARE` of the text or slightly more, in the order of their names' hashes.

    None of them has more than an eighth of that, unless all have: a single large one would not be representative.
    """
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.package] = sizes.get(document.package, 0) + len(document.text)
    if not sizes:
        return set()
    wanted = VAL_SHARE * sum(sizes.values())
    largest, chosen = max(wanted / 8, min(sizes.values())), set()
    for package in sorted(sizes, key=_digest):
        if sizes[package] <= largest and sum(sizes[name] for name in chosen) < wanted:
            chosen.add(package)
    return chosen


def import_order(sources: dict[str, str]) -> list[str]:
    """Paths of `sources` (path below the root → text), each after those that it imports; otherwise sorted."""
    modules = {_module(path): path for path in sources}
    order: dict[str, None] = {}
    visiting: set[str] = set()
    for path in sorted(sources):
        # Depth first without recursion: a long chain of imports would exceed its limit.
        stack = [path]
        while stack:
            here = stack[-1]
            if here in order:
                stack.pop()
            elif here in visiting:
                order[here] = None
                stack.pop()
            else:
                visiting.add(here)
                needed = {modules[name] for name in imported(here, sources[here]) if name in modules}
                stack += sorted((other for other in needed if other not in visiting), reverse=True)
    return list(order)


def imported(path: str, text: str) -> Iterator[str]:
    """Dotted names that a module may import: for `from a import b` both a and a.b."""
    package = _module(path).split(".") if path.endswith("__init__.py") else _module(path).split(".")[:-1]
    for base, names in _FROM.findall(text):
        dots = len(base) - len(base.lstrip("."))
        parts = package[: len(package) - dots + 1] if dots else []
        parts = parts + [part for part in base.lstrip(".").split(".") if part]
        yield ".".join(parts)
        for name in re.findall(r"(\w+)(?:\s+as\s+\w+)?", names):
            yield ".".join([*parts, name])
    for names in _IMPORT.findall(text):
        for name in names.split(","):
            yield name.split(" as ")[0].strip()


def _sources(root: Path, top: Path) -> dict[str, bytes]:
    """Source files below `top` by their path below `root`."""
    sources = {}
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not _VENDORED.fullmatch(name) and not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file() and not path.is_symlink():
                sources[path.relative_to(root).as_posix()] = path.read_bytes()
    return sources


def _documents(root: Path, name: str, sources: dict[str, bytes], seen: set[bytes]) -> Iterator[Document]:
    """Documents of the package `name`, a path below `root`, with the files `sources`."""
    inner: dict[str, dict[str, bytes]] = {}
    own = dict(sources)
    if sum(map(len, sources.values())) > DOCUMENT_BYTES:
        for path in sources:
            below = path.removeprefix(f"{name}/").split("/")
            if len(below) > 1:
                inner.setdefault(f"{name}/{below[0]}", {})[path] = own.pop(path)
    texts = {}
    for path, data in own.items():
        digest = hashlib.blake2b(data, digest_size=16).digest()
        text = _decoded(data)
        if text and digest not in seen:
            seen.add(digest)
            texts[path] = text
    parts = [""]
    for path in import_order(texts):
        if len(parts[-1]) > DOCUMENT_BYTES:
            parts.append("")
        parts[-1] += f"# ==== {path}\n{texts[path].rstrip()}\n\n"
    for number, text in enumerate(parts):
        if len(text) >= SHORT_BYTES:
            yield Document(name.replace("/", ".") + f":{number}" * (len(parts) > 1), name.split("/")[0], text)
    for folder, files in inner.items():
        yield from _documents(root, folder, files, seen)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _module(path: str) -> str:
    """Dotted name of a source file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
