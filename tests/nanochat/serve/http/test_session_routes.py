"""Calls of sessions, from asyncio to the thread that has them: answers, refusals, timeouts, and calls that are dropped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.request import ReplyRequest
from nanochat.infer.sampling import Sampling
from nanochat.serve.backend import Answer, SessionError, SessionTurn
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.http.errors import ApiError
from nanochat.serve.http.session_routes import SessionCall, ask
from tests.helpers.tiny_model import tiny_model


class Counting:
    """Sessions that count: `answer` says its arguments after as many seconds as it `lasts`, `ingest` counts up to `until`."""

    def __init__(self) -> None:
        self.ended_at: int | None = None

    def turn(self, name: str, tokens: Sequence[int]) -> SessionTurn:
        raise SessionError(f"there is no session {name}", 404)

    def answer(self, operation: str, arguments: Mapping[str, Any]) -> Answer:
        time.sleep(arguments.get("lasts", 0))
        if operation == "delete":
            raise SessionError("busy", 409)
        return dict(arguments)

    def ingest(self, arguments: Mapping[str, Any], seconds: Callable[[], float]) -> Iterator[Answer]:
        count = 0
        try:
            while count < arguments["until"]:
                count += 1
                yield {"read": count}
            if arguments.get("fails"):
                raise SessionError("the disk is full", 507)
        finally:
            self.ended_at = count

    def tidy(self) -> float | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def sessions() -> Counting:
    return Counting()


@pytest.fixture
def serving(sessions: Counting) -> Iterator[DecodeThread]:
    with DecodeThread(Batcher(tiny_model(), 1), 1, 1, sessions=sessions) as started:
        yield started


def test_an_answer_a_refusal_and_none_in_time(serving: DecodeThread) -> None:
    assert asyncio.run(ask(serving, 10, "focus", session="a")) == {"session": "a"}
    with pytest.raises(ApiError, match="busy") as error:
        asyncio.run(ask(serving, 10, "delete", session="a"))
    assert (error.value.status, error.value.code, error.value.headers) == (409, "session_conflict", {"retry-after": "1"})
    with pytest.raises(ApiError) as error:
        asyncio.run(ask(serving, 0.05, "focus", lasts=0.5))
    assert error.value.status == 429
    assert asyncio.run(ask(serving, 10, "check")) == {}


async def all_answers(call: SessionCall) -> list[Answer]:
    answers = []
    while (answer := await call.next()) is not None:
        answers.append(answer)
    return answers


def test_several_answers_and_trouble_in_the_midst(serving: DecodeThread, sessions: Counting) -> None:
    async def main(**arguments: Any) -> list[Answer]:
        return await all_answers(SessionCall(serving, "ingest", **arguments))

    assert asyncio.run(main(until=5)) == [{"read": count} for count in range(1, 6)]
    assert sessions.ended_at == 5
    with pytest.raises(ApiError, match="the disk is full") as error:
        asyncio.run(main(until=2, fails=True))
    assert error.value.status == 507 and error.value.code == "storage_failed"


def test_what_is_given_up_ends(serving: DecodeThread, sessions: Counting) -> None:
    async def main() -> None:
        call = SessionCall(serving, "ingest", until=10**9)
        assert (await call.next())["read"] == 1
        call.close()
        assert await call.next() is None
        await ask(serving, 10, "focus")  # asked behind it, so it is over by now
        assert sessions.ended_at is not None and sessions.ended_at < 10**9

    asyncio.run(main())


def test_a_server_that_has_stopped_or_has_none_says_so(serving: DecodeThread) -> None:
    serving.close()
    with pytest.raises(ApiError, match="restart the server") as error:
        asyncio.run(ask(serving, 10, "focus"))
    assert error.value.status == 503
    with DecodeThread(Batcher(tiny_model(), 1), 1, 1) as plain:
        with pytest.raises(ApiError):
            asyncio.run(ask(plain, 10, "focus"))
        with pytest.raises(ValueError, match="invalid session a: there are no sessions here"):
            plain.submit(ReplyRequest([1], Sampling(), session="a"), lambda events: None)
