"""Text streams: files opened as text, unpacked by their name's last suffix and decoded by their byte order mark.

Text is UTF-8, or UTF-16 or UTF-32 if a byte order mark says so. Bytes that are not become lone surrogates, which `is_text` finds, so
that one bad document does not spoil its file.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

import zstandard

from nanochat.common import UserError

PACKED_SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}
_CHUNK = 1 << 14
_WINDOW = 1 << 31  # the largest that `zstd --long` makes
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_POINTERS = {b"version https://git-lfs.github.com/spec/": "git lfs pull", b"/annex/objects/": "git annex get"}
_SAMPLE = 1 << 14  # bytes whose encoding is guessed
# Those that are common, since among all of them unlikely ones fit as well.
_ENCODINGS = "utf_16_le utf_16_be cp1252 cp1250 cp1251 koi8_r cp932 euc_jp gb18030 big5 euc_kr cp1253 cp1254 cp1255 cp1256".split()


def is_text(text: str) -> bool:
    """False if `text` has lone surrogates: bytes that were not decoded, or escapes of JSON that are no characters."""
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def decode(data: bytes) -> str | None:
    """The text of a whole file, without its byte order mark; None if it is not text."""
    if data.count(0) * 5 > len(data) and encoding_of(data) == "utf-8":
        return None  # UTF-16 without a mark, which may pass for UTF-8
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError:
        return None


def encoding_of(head: bytes) -> str:
    """The encoding of text that begins with `head`, four bytes or more."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def plain_suffix(path: Path) -> str:
    """The last suffix of a file's name before that of its packing, in lower case: `.jsonl` of `A.JSONL.gz`."""
    return Path(path.stem if path.suffix.lower() in PACKED_SUFFIXES else path.name).suffix.lower()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked while they are read.

    Raises `UserError` if the packed data are damaged or truncated, or the file is a pointer that git-lfs or git-annex left in its place.
    """
    packed = next((name for suffix, name in PACKED_SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
    with open(path, "rb") as file:
        check_pointer(path, file.peek(64))
        try:
            yield file if packed is None else io.BufferedReader(_OPENERS[packed](file), _CHUNK)
        except _DAMAGE as error:
            raise _damaged(path, packed, error) from error
        except OSError as error:
            if error.errno is None and packed:  # bzip2's own
                raise _damaged(path, packed, error) from error
            raise


@contextmanager
def open_text(path: Path, newline: str | None) -> Iterator[TextIO]:
    """The text of a file as a stream, with `newline` as for `open`. Raises `UserError` as `open_bytes`."""
    with open_bytes(path) as stream:
        encoding = encoding_of(stream.peek(4)[:4])
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        try:
            yield io.TextIOWrapper(stream, encoding, errors, newline)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: damaged {encoding} text ({error.reason}); get it again") from error


def check_pointer(path: Path, head: bytes) -> None:
    """Raises `UserError` if a file that begins with `head` only says where git-lfs or git-annex keeps the contents."""
    command = next((command for start, command in _POINTERS.items() if head.startswith(start)), None)
    if command is not None and path.stat().st_size < 1024:
        raise UserError(f"{path}: a pointer to the file, not the file; get its contents with: {command}")


def looks_like(path: Path) -> str:
    """What a file with bytes that are not UTF-8 looks like: the name of an encoding, or binary data; empty if it has no such bytes."""
    sample = b""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(path) as stream:
        marked = encoding_of(stream.peek(4)[:4])
        if not marked.startswith("utf-8"):
            return f"damaged {marked}"
        while not sample and (chunk := stream.read(_SAMPLE)):
            try:
                if chunk.count(0) * 5 > len(chunk):
                    sample = chunk
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                begin = error.object.rfind(b"\n", 0, error.start) + 1
                lines = (error.object[begin:] + stream.read(_SAMPLE)).split(b"\n")
                sample = b"\n".join(line for line in lines if decode(line) is None) or lines[0]  # others may be UTF-8
    return _guess(sample) if sample else ""


def _guess(sample: bytes) -> str:
    import charset_normalizer

    sample = sample.rstrip(bytes(range(0x30, 0x100))) or sample  # no torn character at the end
    matches = charset_normalizer.from_bytes(sample, cp_isolation=_ENCODINGS)
    best = matches.best()
    if best is None:
        return "binary data"
    fits = [match for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
    if any("cp1252" in match.could_be_from_charset for match in fits):  # what most such files are
        return "cp1252" if any(0x80 <= byte < 0xA0 for byte in sample) else "latin-1"
    return best.encoding.replace("_", "-")


def _damaged(path: Path, packed: str | None, error: Exception) -> UserError:
    return UserError(f"{path}: damaged {packed} data ({error}); delete it and get it again")


class _ZstdFile(io.RawIOBase):
    """The unpacked bytes of a file of zstd frames. The reader of `zstandard` would take a truncated file for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._ready = memoryview(b"")
        self._at = 0

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._ready:
            packed = self._packed or self._file.read(_CHUNK)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the file ended before its last frame did")
                return 0
            frame = self._frame or self._zstd.decompressobj()
            self._ready = memoryview(frame.decompress(packed))
            self._frame, self._packed = (None, frame.unused_data) if frame.eof else (frame, b"")
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        self._at += size
        return size


_OPENERS = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open, "zstd": _ZstdFile}
