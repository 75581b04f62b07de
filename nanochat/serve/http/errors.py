"""Errors in the format of OpenAI's API: one JSON object, short whatever the request was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

MESSAGE_CHARACTERS = 400
PARAM_CHARACTERS = 100
# By status, the error type that OpenAI's clients distinguish errors by.
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# By status, the code of an error of a session.
CODES = {404: "session_not_found", 409: "session_conflict", 429: "server_busy", 503: "model_stopped", 507: "storage_failed"}


class ApiError(Exception):
    """A request that is refused. `param` is the invalid part of the request, `code` a name for the reason."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON object; at most 4 KB as bytes."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {
            "message": _cut(self.message, MESSAGE_CHARACTERS),
            "type": kind,
            "param": None if self.param is None else _cut(self.param, PARAM_CHARACTERS),
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> Response:
        """The answer to the request."""
        return json_response(self.body(), self.status, self.headers)


def session_refusal(answer: Mapping[str, Any]) -> ApiError:
    """The error in an answer of `nanochat.serve.backend.error_answer`."""
    status, message = answer["error"]["status"], answer["error"]["message"]
    retry = {"retry-after": "1"} if status in (409, 429) else {}
    return ApiError(status, message, "session", CODES.get(status), retry)


def no_sessions(status: int = 400) -> ApiError:
    """The refusal of sessions by a server that keeps none."""
    return ApiError(status, "this server keeps no sessions; start it with --mc", "session", "unsupported_parameter")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return Response(json.dumps(value, allow_nan=False), status, headers, media_type="application/json")


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
