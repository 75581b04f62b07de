"""Open file: one that stays readable, in any thread and at any place, when it is removed or replaced meanwhile."""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path

_CHUNK_BYTES = 4 << 20


class OpenFile:
    """A file open for reading; closed when it is let go."""

    def __init__(self, path: Path) -> None:
        self.path, self._descriptor = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        stat = os.fstat(self._descriptor)
        self.bytes = stat.st_size
        self.stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ino)  # tells, as of now, whether a file was written or replaced

    def read_into(self, target: memoryview, start: int) -> None:
        """Fills `target` with the bytes from `start`. Raises `OSError` if the file ends before."""
        while target:
            count = os.preadv(self._descriptor, [target], start)
            if count == 0:
                raise OSError(f"{self.path} has become shorter")
            target, start = target[count:], start + count

    def read(self) -> bytes:
        """All bytes."""
        data = bytearray(self.bytes)
        self.read_into(memoryview(data), 0)
        return bytes(data)

    def sha256(self) -> str:
        """Hex digest of all bytes, of which only a few are in memory at a time."""
        digest, chunk = hashlib.sha256(), memoryview(bytearray(min(_CHUNK_BYTES, self.bytes)))
        for start in range(0, self.bytes, _CHUNK_BYTES):
            piece = chunk[: self.bytes - start]
            self.read_into(piece, start)
            digest.update(piece)
        return digest.hexdigest()
