"""Local corpus, which every machine has: the source code and texts of its Python installation.

Collected once into `data/local/{train,val}.parquet`, so that installing a package between two stages of a run changes nothing.
Deleting the folder collects it anew.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from nanochat.common import UserError, base_dir, write_json
from nanochat.data.make_once import make_once, new_folder
from nanochat.data.text_files import TEXT_SUFFIXES, read_documents

CORPUS_BYTES = 30_000_000
VAL_EVERY = 25  # one document in this many is for validation, 4 %
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})


def local_corpus() -> Path:
    """The folder with `train.parquet`, `val.parquet` and `corpus.json`, collected first if it is missing."""
    folder = base_dir() / "data" / "local"
    make_once(folder, lambda: _collect(folder), proof="corpus.json")
    return folder


def installed_texts() -> Iterator[Path]:
    """The text files of the running Python, sorted: the standard library, its tests, then the installed packages."""
    library, packages = (Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib"))
    modules, tests = [], []
    for path in _text_files(library):
        (modules if _TEST_FOLDERS.isdisjoint(path.relative_to(library).parts[:-1]) else tests).append(path)
    yield from modules
    yield from tests
    yield from _text_files(packages)


def _text_files(root: Path) -> Iterator[Path]:
    artefacts = base_dir().resolve()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if _is_library(name) and Path(folder, name) != artefacts)
        for name in sorted(names):
            path = Path(folder, name)
            if name.lower().endswith(TEXT_SUFFIXES) and not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _is_library(folder: str) -> bool:
    # The packages are a root of their own: in a virtual environment they lie outside of the standard library.
    return not folder.startswith(".") and not folder.endswith(("-packages", ".dist-info", ".egg-info", "__pycache__"))


def _collect(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents, skipped = _read()
    if not documents:
        raise UserError(f"found no text in {sysconfig.get_path('stdlib')}; use --dataset with a file or folder of text")
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    # In the order of the hashes, so that any prefix of the corpus is a random sample of it.
    for digest, (text, path) in sorted(documents.items()):
        splits["train" if int.from_bytes(digest[-8:], "little") % VAL_EVERY else "val"].append((text, str(path)))
    text_bytes = sum(len(text.encode()) for text, _ in documents.values())
    summary = {"python": platform.python_version(), "documents": len(documents), "text_bytes": text_bytes}
    with new_folder(folder) as temporary:
        for split, rows in splits.items():
            table = pa.table({"text": [text for text, _ in rows], "path": [path for _, path in rows]})
            pq.write_table(table, temporary / f"{split}.parquet", compression="zstd")
        write_json(temporary / "corpus.json", summary | {f"skipped_{why}": count for why, count in skipped.items()})


def _read() -> tuple[dict[bytes, tuple[str, Path]], dict[str, int]]:
    """Up to `CORPUS_BYTES` of documents (text, path) by content hash, and the numbers skipped by reason."""
    documents: dict[bytes, tuple[str, Path]] = {}
    skipped = {"not_utf8": 0, "empty": 0, "duplicate": 0}
    total = 0
    for path in installed_texts():
        for text in read_documents(path):
            if not text:
                skipped["not_utf8" if text is None else "empty"] += 1
                continue
            data = text.encode("utf-8")
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if digest in documents:
                skipped["duplicate"] += 1
                continue
            total += len(data)
            if total > CORPUS_BYTES:
                return documents, skipped
            documents[digest] = (text, path)
    return documents, skipped
