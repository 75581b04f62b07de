"""Byte-level BPE in Rust: training, splitting and encoding. Every call releases the GIL; bad input raises `ValueError`.

Texts travel as `Documents`: one UTF-8 buffer with offsets, which is how Arrow keeps strings, so nothing is copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

try:
    from rustbpe._native import ffi, lib
except ModuleNotFoundError as error:
    raise ImportError("the Rust part of megacontext is not built; run `pip install -e .` in the checkout") from error

# One reference too many, so that the interpreter never unloads the library: on its way out it may do so before it frees the
# objects whose destructors are in there.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(lib))

__all__ = ["Documents", "Trainer", "Vocabulary", "ffi", "lib", "split"]


class Documents(NamedTuple):
    """Texts one after another."""

    data: Any  # UTF-8: anything with the buffer interface
    offsets: np.ndarray  # int64[n + 1]; text i is data[offsets[i]:offsets[i + 1]]


class Trainer:
    """Counts the pieces of texts, then learns merges. `threads` 0 is one per processor."""

    def __init__(self, threads: int = 0) -> None:
        self._trainer = ffi.gc(_object(lib.rustbpe_trainer_new(_threads(threads))), lib.rustbpe_trainer_free)

    def feed(self, documents: Documents) -> None:
        """Counts the pieces of `documents`. After a `ValueError` the trainer is of no more use."""
        _number(lib.rustbpe_trainer_feed(self._trainer, *_arguments(documents)))

    def learn(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` merges of two ids, fewer where the text has no more pairs. Merge `i` makes id `256 + i`."""
        left, right = np.empty(limit, np.uint32), np.empty(limit, np.uint32)
        number = _number(lib.rustbpe_trainer_learn(self._trainer, limit, _pointer("uint32_t[]", left), _pointer("uint32_t[]", right)))
        return list(zip(left[:number].tolist(), right[:number].tolist(), strict=True))


class Vocabulary:
    """Encodes with `tokens[id]`, the bytes of each token; ids are ranks. All 256 single bytes must be among them."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        offsets = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum([len(token) for token in tokens], out=offsets[1:])
        encoder = lib.rustbpe_encoder_new(*_arguments(Documents(b"".join(tokens), offsets)))
        self._encoder = ffi.gc(_object(encoder), lib.rustbpe_encoder_free)

    def encode(self, text: str) -> list[int]:
        """Ids of one text, on the calling thread."""
        data = text.encode("utf-8")
        ids = ffi.new("uint32_t[]", len(data))
        return ffi.unpack(ids, _number(lib.rustbpe_encode_text(self._encoder, data, len(data), ids)))

    def encode_documents(
        self, documents: Documents, dtype: type[np.generic], bos: int = -1, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents as one array of `dtype` (uint16 or uint32), and the int64[n + 1] offsets of the documents in it.

        Each document starts with `bos`, unless that is -1. `threads` 0 is one per processor.
        """
        result = lib.rustbpe_encode(self._encoder, *_arguments(documents), bos, np.dtype(dtype).itemsize, _threads(threads))
        encoded = ffi.gc(_object(result), lib.rustbpe_ids_free)
        ids = np.empty(_number(lib.rustbpe_ids_len(encoded)), dtype)
        offsets = np.empty(len(documents.offsets), np.int64)
        _number(lib.rustbpe_ids_copy(encoded, _pointer("uint8_t[]", ids), _pointer("int64_t[]", offsets)))
        ffi.release(encoded)
        return ids, offsets


def split(text: str) -> list[str]:
    """The pieces of `text`; merges stay inside a piece."""
    data = text.encode("utf-8")
    ends = ffi.new("uint64_t[]", len(data))
    number = _number(lib.rustbpe_split(data, len(data), ends))
    bounds = [0, *ffi.unpack(ends, number)] if number else [0]
    return [data[start:end].decode("utf-8") for start, end in zip(bounds, bounds[1:], strict=False)]


def _arguments(documents: Documents) -> tuple[Any, int, Any, int]:
    """The C arguments text, text_len, offsets, documents. The views keep their buffers alive."""
    if len(documents.offsets) == 0:
        raise ValueError("there are no offsets; n texts have n + 1")
    data = ffi.from_buffer("uint8_t[]", documents.data)
    offsets = ffi.from_buffer("int64_t[]", np.ascontiguousarray(documents.offsets, np.int64))
    return data, len(data), offsets, len(offsets) - 1


def _threads(threads: int) -> int:
    if not 0 <= threads <= 4096:
        raise ValueError(f"threads is {threads}; it must be from 0, one per processor, to 4096")
    return threads


def _pointer(kind: str, array: np.ndarray) -> Any:
    return ffi.from_buffer(kind, array, require_writable=True)


def _number(result: int) -> int:
    if result < 0:
        raise ValueError(ffi.string(lib.rustbpe_last_error()).decode("utf-8"))
    return result


def _object(result: Any) -> Any:
    if result == ffi.NULL:
        raise ValueError(ffi.string(lib.rustbpe_last_error()).decode("utf-8"))
    return result
