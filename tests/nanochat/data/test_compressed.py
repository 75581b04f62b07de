"""Compressed files: whole ones are read, damaged ones named."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from nanochat.common import UserError
from nanochat.data.compressed import COMPRESSIONS, open_plain, plain_suffix

DATA = b"".join(f"line {i * i}\n".encode() for i in range(5000))
COMPRESS = {
    ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)
}  # fmt: skip


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_compressed_file_is_read_and_a_truncated_one_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"A.JSONL{suffix.upper()}"
    packed = COMPRESS[suffix](DATA)
    path.write_bytes(packed + packed)
    with open_plain(path) as f:
        assert f.read() == DATA + DATA and plain_suffix(path) == ".jsonl"
    for damaged in (packed[: len(packed) // 2], b"plain text\n" * 9):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path.name}: damaged {suffix} data") as error, open_plain(path) as f:
            f.read()
        assert "\n" not in str(error.value)


def test_a_plain_file_is_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.b.json"
    path.write_bytes(DATA)
    with open_plain(path) as f:
        assert f.read() == DATA
    assert [plain_suffix(Path(name)) for name in ("a.b.json", "x", ".gz", "a.gz", "train.PARQUET")] == [".json", "", "", "", ".parquet"]
    with pytest.raises(UserError, match="cannot read .*nothing: No such file"), open_plain(tmp_path / "nothing"):
        pass
