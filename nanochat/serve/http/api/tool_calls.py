"""Tools of the client: the model's own calls, and calls that the client demands, as calls of its functions.

A model calls the calculator and Python by writing code. If a request offers a function for that, the code is not run here but
becomes a call of it. With `tool_choice` a call is demanded: the reply is constrained to the arguments of the function, or, if there
are several, to its name and arguments.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.calculator import calculate
from nanochat.infer.grammar import ANY_OBJECT, json_grammar
from nanochat.infer.reply import Piece
from nanochat.infer.request import Finish
from nanochat.serve.http.api.prompts import CODE_PARAMETERS
from nanochat.serve.http.api.schema import ChatRequest, FunctionTool, Message
from nanochat.serve.http.errors import ApiError

# A function takes code, too, if its own name says so.
CALCULATORS = {"calculator", "calculate", "calc", "math", "evaluate"}
PYTHONS = {"python", "code_interpreter", "run_python", "execute_python", "python_interpreter", "run_code", "execute_code"}


class ToolCalling:
    """Calls of a request's functions. `demanded`: a call is demanded, `own_code`: the model's code becomes one."""

    def __init__(self, request: ChatRequest) -> None:
        self._functions = {tool.function.name: tool for tool in request.tools or []}
        choice = request.tool_choice or "auto"
        named = choice if isinstance(choice, str) else choice.function.name
        if named not in ("none", "auto") and not self._functions:
            raise ApiError(400, "tool_choice needs tools", "tool_choice")
        if named not in ("none", "auto", "required"):
            if named not in self._functions:
                raise ApiError(400, "tool_choice names none of the tools", "tool_choice")
            self._functions = {named: self._functions[named]}
        self.demanded = named not in ("none", "auto")
        takers = {name: taken for name, tool in self._functions.items() if (taken := _code_parameter(tool)) is not None}
        self._code_takers = takers if named != "none" else {}
        self.own_code = bool(self._code_takers) and not self.demanded
        if request.session is not None and (self.demanded or self.own_code):
            raise ApiError(400, "a session cannot call tools of the client", "tools", "unsupported_parameter")

    def schema(self) -> Mapping[str, Any]:
        """The JSON schema of a demanded call."""
        schemas = {name: tool.function.parameters or ANY_OBJECT for name, tool in self._functions.items()}
        if len(schemas) == 1:
            return next(iter(schemas.values()))
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": schema},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, schema in schemas.items()
        ]
        return {"anyOf": calls}

    def introduction(self) -> list[Message]:
        """The system message that tells the model about the functions of a demanded call; none otherwise."""
        if not self.demanded:
            return []
        functions = [tool.function for tool in self._functions.values()]
        lines = [f"{each.name}: {each.description or ''} {json.dumps(each.parameters or {})}" for each in functions]
        return [Message(role="system", content="Call a function by its arguments in JSON.\n" + "\n".join(lines))]

    def calls(self, pieces: Sequence[Piece], finish: Finish | None) -> list[dict[str, Any]]:
        """The calls that a reply makes, as `tool_calls`; none if it was cut off."""
        if finish != "stop":
            return []
        if self.demanded:
            return self._demanded_call("".join(piece.text for piece in pieces))
        code = "".join(piece.text for piece in pieces if piece.kind == "python")
        if not self.own_code or not code:
            return []
        preferred = CALCULATORS if calculate(code) is not None else PYTHONS
        name = next((name for name in self._code_takers if name in preferred), next(iter(self._code_takers)))
        return [_call(name, json.dumps({self._code_takers[name]: code}))]

    def _demanded_call(self, text: str) -> list[dict[str, Any]]:
        try:
            call = json.loads(text)
        except ValueError:  # a stop string has cut it off
            return []
        if len(self._functions) == 1:
            return [_call(next(iter(self._functions)), text)]
        return [_call(call["name"], json.dumps(call["arguments"]))]


def to_grammar(request: ChatRequest, tools: ToolCalling, tokenizer: Tokenizer) -> str | None:
    """The grammar that the replies must follow, None if there is none. Raises `ApiError` for a schema that cannot be followed."""
    wanted, where = request.response_format, "response_format"
    schema = None if wanted is None or wanted.type == "text" else wanted.json_schema.json_schema if wanted.json_schema else ANY_OBJECT
    if tools.demanded:
        schema, where = tools.schema(), "tools"
    if schema is None:
        return None
    try:
        return json_grammar(schema, tokenizer)
    except ValueError as error:
        known = str(error).startswith(("Unimplemented keys", "too long"))  # other reasons may repeat what was sent
        reason = f": {error}" if known else ""
        raise ApiError(400, f"the JSON schema is invalid or cannot be followed{reason}", where, "invalid_schema") from None


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _code_parameter(tool: FunctionTool) -> str | None:
    """The parameter of a function that takes code, None if it takes none."""
    parameters = tool.function.parameters or {}
    properties = parameters.get("properties", {})
    texts = {name for name, schema in properties.items() if isinstance(schema, dict) and schema.get("type") == "string"}
    required = set(parameters.get("required") or texts)
    if len(texts) != 1 or not required <= texts:
        return None
    (parameter,) = texts
    return parameter if parameter in CODE_PARAMETERS or tool.function.name in CALCULATORS | PYTHONS else None
