"""Counts of requests and places, without a server."""

from __future__ import annotations

import pytest

from nanochat.serve.admission import Admission, Busy


def test_rows_take_places_and_requests_are_counted() -> None:
    admission = Admission(2, 1)
    admission.admit(3, prompt_tokens=5)
    with pytest.raises(Busy):
        admission.admit(1, prompt_tokens=5)
    assert (admission.counts().active, admission.counts().queued) == (2, 1)
    for _ in range(3):
        admission.release(1.0)
    admission.ended("finished")
    admission.admit(1, prompt_tokens=1)
    admission.release(1.0)
    admission.ended("failed")
    counts = admission.counts()
    assert (counts.requests, counts.finished, counts.failed, counts.cancelled, counts.refused) == (2, 1, 1, 0, 1)
    assert (counts.active, counts.queued, counts.prompt_tokens) == (0, 0, 6)
