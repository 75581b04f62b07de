"""Constrained decoding: whatever the model, the sampling and the length, a reply is JSON of its schema."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from bench.tiny_chat import tiny_tokenizer
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.grammar import ANY_OBJECT, JsonConstraint, json_grammar
from nanochat.infer.request import Completion, ReplyRequest
from nanochat.infer.sampling import Sampling
from tests.helpers.tiny_model import tiny_model

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.special_tokens["<|assistant_end|>"]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 18, "maximum": 120},
        "kind": {"enum": ["friend", "a rather distant relative"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "born": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
    },
    "required": ["name", "age", "kind", "tags", "born"],
    "additionalProperties": False,
}
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {"people": {"type": "array", "items": PERSON}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["people"],
}


def batcher(seed: int) -> Batcher:
    model = tiny_model(seed, vocab_size=TOKENIZER.vocab_size, depth=4, max_seq_len=400)
    return Batcher(model, 8, constrain=functools.partial(JsonConstraint, TOKENIZER))


def replies(seed: int, schema: dict[str, Any], tokens: int, rows: int = 4, **sampling: float) -> list[Completion]:
    settings = Sampling(**{"max_tokens": tokens, "seed": seed, "top_k": 0, **sampling})
    request = ReplyRequest([TOKENIZER.bos_id, 65, 66], settings, (END,), rows, grammar=json_grammar(schema, TOKENIZER))
    return batcher(seed).complete([request])[request.id]


@pytest.mark.parametrize(("schema", "tokens"), [(PERSON, 90), (NESTED, 90), (ANY_OBJECT, 40)], ids=["person", "nested", "any"])
def test_a_reply_of_a_random_model_always_parses(schema: dict[str, Any], tokens: int) -> None:
    for seed, temperature in ((1, 3.0), (2, 0.0)):
        for reply in replies(seed, schema, tokens, rows=1 if temperature == 0 else 3, temperature=temperature):
            assert reply.ended and len(reply.tokens) <= tokens
            value = json.loads(TOKENIZER.decode_bytes(reply.said))
            assert isinstance(value, dict)
            for person in [value] if schema is PERSON else value["people"] if schema is NESTED else []:
                assert list(person) == list(PERSON["properties"]) and 18 <= person["age"] <= 120
                assert person["kind"] in PERSON["properties"]["kind"]["enum"] and len(person["tags"]) >= 2 and person["born"][4] == "-"


@pytest.mark.parametrize("is_open", [False, True])
def test_objects_have_the_properties_that_are_named(is_open: bool) -> None:
    """Also below others; unless the schema says that there may be more."""
    point: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    if is_open:
        point["additionalProperties"] = True
    schema = {"properties": {"points": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Point"}]}, "minItems": 2}}}
    schema |= {"type": "object", "required": ["points"], "$defs": {"Point": point}}
    found = [json.loads(TOKENIZER.decode_bytes(reply.said)) for reply in replies(1, schema, 80, temperature=3.0)]
    assert all(set(each) == {"points"} for each in found)
    assert is_open == any(set(each) != {"x"} for value in found for each in value["points"])


def test_a_reply_that_has_room_is_the_model_s_own() -> None:
    """Far from the limit nothing is shortened: the beginning is the same with more room."""
    short, long = (replies(3, ANY_OBJECT, tokens, rows=1)[0].tokens for tokens in (250, 350))
    assert short[:40] == long[:40]


def test_rows_beside_it_are_as_without() -> None:
    plain = ReplyRequest([TOKENIZER.bos_id, 65], Sampling(max_tokens=30, seed=5))
    alone = batcher(0).complete([plain])[plain.id][0].tokens
    constrained = ReplyRequest([65], Sampling(max_tokens=60), (END,), grammar=json_grammar(PERSON, TOKENIZER))
    assert batcher(0).complete([constrained, plain])[plain.id][0].tokens == alone


@pytest.mark.parametrize(
    "schema",
    [
        *({"type": "nonsense"}, {"$ref": "http://127.0.0.1/x"}, {"not": {}}, {"type": "object", "required": 3}),
        {"enum": ["x" * 100] * 1000},
        {"anyOf": [{"properties": {f"{i}": {}}} for i in range(2100)]},
        {"type": "object", "properties": {f"{i}": {} for i in range(5500)}},
    ],
    ids=["type", "remote", "not", "required", "long", "many", "symbols"],
)
def test_a_schema_that_cannot_be_followed_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        json_grammar(schema, TOKENIZER)


def test_a_batcher_without_constraints_refuses_a_grammar() -> None:
    with pytest.raises(ValueError, match="grammar"):
        Batcher(tiny_model(), 1).add(ReplyRequest([1], Sampling(), grammar="{}"))
