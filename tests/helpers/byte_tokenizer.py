"""A tokenizer of single bytes that keeps the protocol of `nanochat.data.token_cache.Encoder`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class ByteTokenizer:
    """Ids 0 … 255 are bytes, 256 is BOS. `wide` makes uint32 ids of a larger vocabulary."""

    def __init__(self, fingerprint: str = "bytes", wide: bool = False) -> None:
        self.vocab_size = 70_000 if wide else 257
        self.bos_id = self.vocab_size - 1
        self.fingerprint = fingerprint
        self.dtype = np.uint32 if wide else np.uint16
        self.calls = 0

    def encode_bulk(self, texts: Iterable[str], bos: bool = True, threads: int = 0) -> tuple[np.ndarray, np.ndarray]:
        assert bos
        self.calls += 1
        pieces = [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]
        ids = np.concatenate([np.concatenate([[self.bos_id], piece]) for piece in pieces]).astype(self.dtype)
        return ids, np.cumsum([0, *(len(piece) + 1 for piece in pieces)])

    def decode(self, ids: np.ndarray) -> str:
        return bytes(int(i) for i in ids if i != self.bos_id).decode("utf-8")
