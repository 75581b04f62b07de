"""The bench of replies beside an upload, in a short form: what it measures is the machine's, that it measures is not."""

from __future__ import annotations

import json

import pytest

from bench.web_upload import main


def test_the_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--megabytes=1", "--replies=1", "--tokens=30"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["speed_kept"] > 0 and found["first_seconds"] > 0 and found["document_tokens_read"] > 0


@pytest.mark.slow
def test_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
