"""Constrained decoding: replies that are JSON of a given schema, by `llguidance`.

A reply always ends as a whole: when the tokens that are left only just suffice, the shortest way to the end is taken. Shapes: `V`
vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer

ANY_OBJECT: dict[str, Any] = {"type": "object"}
END = "<|assistant_end|>"
# Limits of a schema, so that nobody waits long while it is read (at most about 0.1 s).
MOST_CHARACTERS, MOST_SYMBOLS, LEXER_FUEL = 1 << 16, 10_000, 200_000
OPENING = {"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref"}  # may allow other properties
MOST_CAUTION = 512  # tokens beyond the shortest way to the end from which on each next token is checked, if the schema is as long
CANDIDATES = 8  # likeliest next tokens that are checked
GROWTH = 8  # the way to the end becomes longer by fewer tokens than this with each token, on average
LONGEST_WAY = 1024  # tokens
# The bytes that lead to the end, in this order of preference, outside of strings: a value is closed before another one begins.
CLOSING = b'}],:"0ntf123456789-.eE+{['


def json_grammar(schema: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    """The grammar of JSON that follows `schema`, without spaces between its parts. Raises `ValueError` if it is invalid or too long.

    Objects whose properties are named have no others, unless `additionalProperties` says so or the schema has an `allOf`.
    """
    text = json.dumps(schema)
    if '"allOf"' not in text:
        text = json.dumps(_closed(schema))
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"too long: it has {len(text)} characters; at most {MOST_CHARACTERS} are allowed")
    grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
    matcher = _matcher(tokenizer, grammar)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return grammar


def _closed(schema: Any) -> Any:
    """`schema` with `additionalProperties: false` where properties are named and it is not said whether there may be others."""
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), Mapping):
            closed[key] = {name: _closed(each) for name, each in schema[key].items()}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(key), list):
            closed[key] = [_closed(each) for each in schema[key]]
    closed |= {key: _closed(schema[key]) for key in ("items", "additionalProperties") if key in schema}
    if "properties" in schema and not schema.keys() & OPENING:
        closed["additionalProperties"] = False
    return closed


@functools.lru_cache(maxsize=32)
def _matcher(tokenizer: Tokenizer, grammar: str) -> LLMatcher:
    """A matcher to copy: reading a grammar takes longer."""
    limits = LLParserLimits(max_grammar_size=MOST_SYMBOLS, initial_lexer_fuel=LEXER_FUEL)
    return LLMatcher(_llguidance_tokenizer(tokenizer), grammar, log_level=0, limits=limits)


@functools.lru_cache(maxsize=2)
def _llguidance_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    class Wrapped:
        eos_token_id = tokenizer.special_tokens[END]
        bos_token_id = tokenizer.bos_id
        tokens = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        special_token_ids = list(tokenizer.special_tokens.values())

        def __call__(self, text: bytes | str) -> list[int]:
            return tokenizer.encode(text if isinstance(text, str) else text.decode())

    return LLTokenizer(TokenizerWrapper(Wrapped()))


class JsonConstraint:
    """One reply that follows `grammar`; see `nanochat.infer.score_rules.Constraint`."""

    def __init__(self, tokenizer: Tokenizer, grammar: str) -> None:
        self._tokenizer = tokenizer
        self._state = _State(tokenizer, _matcher(tokenizer, grammar).deep_copy())
        self._way_out: list[int] | None = None  # once nothing else is possible
        # One token may begin an object with many parts, but hardly more than the schema has.
        self._caution = min(len(tokenizer.encode(grammar)), MOST_CAUTION)
        self._check_below = 1 << 62  # number of tokens left from which on the way to the end must be known again

    def allowed(self, logits: Tensor, left: int) -> Tensor:
        """See `Constraint`."""
        if self._way_out is None:
            mask = self._state.allowed()
            if left > self._check_below:
                return mask
            shortest = self._state.way_out(min(left, LONGEST_WAY))
            if shortest is None:  # too few tokens, or no way was found: seldom tried again
                self._check_below = left // 2
                return mask
            spare = left - len(shortest) - self._caution
            if spare > 0:
                self._check_below = left - max(1, spare // GROWTH)
                return mask
            rest = [
                int(token)
                for token in logits[: len(mask)].cpu().masked_fill(~mask, -torch.inf).topk(CANDIDATES).indices
                if mask[token] and self._state.after(int(token)).way_out(left - 1) is not None
            ]
            if rest:
                return _only(rest, len(mask))
            self._way_out = shortest
        return _only(self._way_out[:1], self._tokenizer.vocab_size)

    def take(self, token: int) -> None:
        """See `Constraint`."""
        self._state.take(token)
        if self._way_out:
            self._way_out = self._way_out[1:] or None


class _State:
    """Place in a grammar."""

    def __init__(self, tokenizer: Tokenizer, matcher: LLMatcher, in_string: bool = False, escaped: bool = False) -> None:
        self._tokenizer, self._matcher, self._in_string, self._escaped = tokenizer, matcher, in_string, escaped
        self._end = tokenizer.special_tokens[END]

    def allowed(self) -> Tensor:
        """The tokens that may come next, bool [V]; the end alone if the grammar is exhausted."""
        if self._matcher.is_error() or self._matcher.is_stopped():
            return _only([self._end], self._tokenizer.vocab_size)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        return torch.from_numpy(bits[: self._tokenizer.vocab_size].astype(bool))

    def take(self, token: int) -> None:
        """Continues after `token`."""
        if not self._matcher.is_error() and not self._matcher.is_stopped():
            self._matcher.consume_token(token)
        for byte in self._tokenizer.decode_bytes([token]) if token != self._end else b"":
            if self._escaped:
                self._escaped = False
            elif byte == ord("\\"):
                self._escaped = self._in_string
            elif byte == ord('"'):
                self._in_string = not self._in_string

    def copy(self) -> _State:
        """A place of its own."""
        return _State(self._tokenizer, self._matcher.deep_copy(), self._in_string, self._escaped)

    def after(self, token: int) -> _State:
        """The place after `token`."""
        other = self.copy()
        other.take(token)
        return other

    def way_out(self, most: int) -> list[int] | None:
        """Tokens that lead to the end from here, the end token included; None if it takes more than `most`."""
        state = self.copy()
        way: list[int] = []
        while len(way) < most and not state._matcher.is_error():
            if state._matcher.is_accepting() or state._matcher.is_stopped():
                return [*way, self._end]
            for token in state._matcher.compute_ff_tokens() or [state._towards_the_end()]:
                way.append(token)
                state.take(token)
        return None

    def _towards_the_end(self) -> int:
        """A token that may come next and leads to the end, if any does. The ids of single bytes are the bytes."""
        bits = int.from_bytes(self._matcher.compute_bitmask(), "little")
        lowest = (bits & -bits).bit_length() - 1
        return next((byte for byte in (b'"' if self._in_string else CLOSING) if bits >> byte & 1), lowest)


def _only(tokens: list[int], vocabulary: int) -> Tensor:
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[tokens] = True
    return mask
