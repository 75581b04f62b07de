"""Files whose names end in a compression's suffix, read as if they were plain."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from nanochat.common import UserError, first_line


def _zstd(raw: IO[bytes]) -> BinaryIO:
    import pyarrow as pa  # not `zstandard`, which takes a truncated file for a whole one

    return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"))


_OPENERS: dict[str, Callable[[IO[bytes]], BinaryIO]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".zst": _zstd}
COMPRESSIONS = tuple(_OPENERS)


def plain_suffix(path: Path) -> str:
    """Last suffix of a file's name without its compression, in lower case: `.jsonl` of `A.JSONL.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join((suffixes[:-1] if suffixes and suffixes[-1] in COMPRESSIONS else suffixes)[-1:])


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file. Raises `UserError` if it cannot be read or is damaged."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as raw:
            if suffix not in COMPRESSIONS:
                yield raw
            else:
                with _OPENERS[suffix](raw) as f:
                    yield f
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        raise UserError(f"{path}: damaged {suffix} data ({first_line(error)}); delete it and get it again") from error
