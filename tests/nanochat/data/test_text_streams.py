"""Packed and differently encoded files as streams: whole, long, damaged; and what a file that is not UTF-8 looks like."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from nanochat.common import UserError
from nanochat.data.text_streams import decode, is_text, looks_like, open_bytes, open_text

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
TEXT = "".join(f"line {i} äöü ∀ 🙂\n" for i in range(5_000))


def read(path: Path) -> str:
    with open_text(path, newline="\n") as lines:
        return "".join(lines)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def fails(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize("suffix", PACK)
def test_packed_files(tmp_path: Path, suffix: str) -> None:
    pack, half = PACK[suffix], len(TEXT) // 2
    assert read(write(tmp_path / f"a.jsonl{suffix}", pack(TEXT.encode()))) == TEXT
    parts = pack(TEXT[:half].encode()) + pack(b"") + pack(TEXT[half:].encode())
    assert read(write(tmp_path / f"PARTS{suffix.upper()}", parts)) == TEXT, "packed in parts, as by pzstd, pigz and `cat`"


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("damage", ["half", "last byte", "another format", "flipped"])
def test_damaged_packed_files(tmp_path: Path, suffix: str, damage: str) -> None:
    data = bytearray(PACK[suffix](TEXT.encode()))
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    damaged = {"half": data[: len(data) // 2], "last byte": data[:-1], "another format": TEXT.encode(), "flipped": flipped}[damage]
    if suffix == ".zst" and damage == "flipped":
        damaged = damaged[:10] + bytes(40) + damaged[50:]  # zstandard writes no checksum unless asked
    fails(write(tmp_path / f"a{suffix}", bytes(damaged)), "damaged", "get it again")


def test_frames_with_long_windows_and_frames_to_skip(tmp_path: Path) -> None:
    long = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)  # as of `zstd --long=30`
    frame = zstandard.ZstdCompressor(compression_params=long).compressobj()
    skipped = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    data = skipped + frame.compress(TEXT.encode()) + frame.flush() + skipped
    assert read(write(tmp_path / "a.zst", data)) == TEXT


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_lines_are_read_in_little_memory(tmp_path: Path, suffix: str) -> None:
    numbers = random.Random(0).randbytes(1 << 20).hex()
    path = write(tmp_path / f"a.jsonl{suffix}", PACK[suffix](f"{numbers}\n".encode() * 5))
    tracemalloc.start()
    with open_text(path, newline="\n") as lines:
        assert sum(1 for _ in lines) == 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 7e6, f"{peak:,} bytes for a file of 10 MB in lines of 2 MB"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.gz", gzip.compress(TEXT.encode(encoding)))
    assert read(path) == TEXT and decode(TEXT.encode(encoding)) == TEXT
    big_endian = b"\xfe\xff" + TEXT.encode("utf-16-be")
    assert read(write(tmp_path / "a", big_endian)) == decode(big_endian) == TEXT


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    first, second = read(write(tmp_path / "a", b"good \xc3\xa4\nb\xe4d\n")).splitlines()
    assert is_text(first) and not is_text(second) and not is_text("\ud800")
    fails(write(tmp_path / "odd", TEXT.encode("utf-16")[:-1]), "damaged utf-16")
    assert decode("Bär".encode("latin-1")) is None and decode(TEXT.encode("utf-16")[:-1]) is None
    assert decode("plain text".encode("utf-16-le")) is None, "UTF-16 without a mark is valid UTF-8, full of NULs"
    assert decode(b"one \0 NUL") == "one \0 NUL" and decode(b"") == ""


LANGUAGES = {
    "latin-1": "café über alles, garçon, señor. ",
    "cp1252": "“Smart quotes” – and a café… ",
    "cp1251": "Привет, мир. Это проверка кодировки. ",
    "koi8-r": "Привет, мир. Это проверка кодировки. ",
    "cp932": "日本語のテキストです。これは試験です。",
    "gb18030": "这是一个测试文件,包含中文。",
    "big5": "這是一個測試檔案,包含中文。",
    "utf-16-le": "hello world, this is text. ",
}


@pytest.mark.parametrize("encoding", LANGUAGES)
def test_what_a_file_looks_like(tmp_path: Path, encoding: str) -> None:
    start = b"plain ASCII to begin with\n" * 2000 if encoding != "utf-16-le" else b""
    assert looks_like(write(tmp_path / "a.txt", start + (LANGUAGES[encoding] * 40).encode(encoding))) == encoding


def test_what_looks_like_nothing(tmp_path: Path) -> None:
    assert looks_like(write(tmp_path / "a.txt", bytes(range(256)) * 300)) == "binary data"
    assert looks_like(write(tmp_path / "a.txt", TEXT.encode("utf-16")[:-1])) == "damaged utf-16"
    assert looks_like(write(tmp_path / "a.txt", TEXT.encode())) == ""


@pytest.mark.parametrize(
    ("pointer", "command"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s120--4d7a2.jsonl\n", "git annex get"),
    ],
)
def test_pointers_in_place_of_files(tmp_path: Path, pointer: bytes, command: str) -> None:
    fails(write(tmp_path / "a.txt", pointer), "pointer", command)
    with open_bytes(write(tmp_path / "b.txt", pointer + TEXT.encode())) as about_them:
        assert about_them.read() == pointer + TEXT.encode()
