"""The bench of the chat server under bad requests: its short form, and as the long proof the whole of it."""

from __future__ import annotations

import json

import pytest

from bench.web_fuzz import main


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--requests=30", "--disconnects=10", "--max-growth-mib=200"]) == 0
    found = last_line(capsys)
    assert found["good"] and (found["requests"], found["disconnects"], found["rows_left"]) == (30, 10, 0)
    assert sum(found["statuses"].values()) == 30 and found["still_answers"]


def test_growth_beyond_the_limit_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--requests=10", "--disconnects=10", "--max-growth-mib=-1000"]) == 1
    assert not last_line(capsys)["good"]


@pytest.mark.slow
def test_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert last_line(capsys)["requests"] == 10_000
