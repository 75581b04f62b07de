"""Time that a thread divides between rows that are decoded and documents that are read."""

from __future__ import annotations

import time

PIECE_SECONDS = 0.05  # of a document, while rows are decoded
ROWS_PART = 2.0  # time that rows have after a piece, in pieces: they keep two thirds of their speed
ALONE_SECONDS = 0.25  # of a document otherwise: a newcomer waits for the end of the piece


class TimeShare:
    """Gives documents at most a third of the time: after a piece, the rows have twice as long as it took, before there is another.

    `busy` is True while there are rows.
    """

    def __init__(self) -> None:
        self.busy = False
        self._owed = 0.0  # seconds that the rows have before the next piece
        self._began = 0.0

    def seconds(self) -> float:
        """How long the next piece may take."""
        return PIECE_SECONDS if self.busy else ALONE_SECONDS

    @property
    def may_read(self) -> bool:
        """True if it is the documents' turn."""
        return not self.busy or self._owed <= 0

    def begin(self) -> None:
        """Starts the clock of a decoding step or of a piece."""
        self._began = time.monotonic()

    def decoded(self) -> None:
        """Ends a decoding step."""
        self._owed = max(0.0, self._owed - (time.monotonic() - self._began))

    def read(self) -> None:
        """Ends a piece."""
        self._owed = ROWS_PART * (time.monotonic() - self._began)
