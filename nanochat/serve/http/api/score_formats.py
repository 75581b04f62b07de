"""Log-probabilities in OpenAI's formats: those of chat completions, and those of text completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.token_scores import TokenScore


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token; of one that is not UTF-8, its bytes: `bytes:\\xe2\\x82`. No two tokens have the same name, except that
    text may spell a special token."""
    spelled = tokenizer.decode_bytes([token])
    try:
        return spelled.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def chat_logprobs(tokenizer: Tokenizer, scores: Sequence[TokenScore]) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""

    def one(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": token_name(tokenizer, token), "logprob": logprob, "bytes": list(tokenizer.decode_bytes([token]))}

    content = [{**one(score.token, score.logprob), "top_logprobs": [one(*each) for each in score.top]} for score in scores]
    return {"content": content, "refusal": None}


class TextScores:
    """The `logprobs` of one text choice, which grow with it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._offset = tokenizer, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._special = frozenset(tokenizer.special_tokens.values())

    def add(self, scores: Sequence[TokenScore], prompt: bool = False) -> dict[str, Any]:
        """The `logprobs` of the next tokens. Special tokens are part of the text only in a `prompt`."""
        out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for score in scores:
            out["tokens"].append(token_name(self._tokenizer, score.token))
            out["token_logprobs"].append(score.logprob)
            out["top_logprobs"].append(None if score.logprob is None else self._top(score))
            out["text_offset"].append(self._offset)
            if prompt or score.token not in self._special:
                self._offset += len(self._decoder.decode(self._tokenizer.decode_bytes([score.token])))
        return out

    def _top(self, score: TokenScore) -> dict[str, float]:
        """The likeliest tokens and the token itself."""
        return {token_name(self._tokenizer, token): logprob for token, logprob in [*score.top, (score.token, score.logprob)]}
