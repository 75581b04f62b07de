"""One real reply, with the time it took."""

from __future__ import annotations

import time
from typing import NamedTuple

from nanochat.checkpoint.load_model import Stage, load_model
from nanochat.data.chat_template import render_prompt
from nanochat.infer.conversation import ending, reply_pieces
from nanochat.infer.engine import Engine
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import ToolFlags
from nanochat.runtime.device import RuntimeFlags, start

MAX_TOKENS = 64


class Said(NamedTuple):
    """A reply; `tokens` were drawn, the one that ended it included, the first of them `first_seconds` after the question."""

    text: str
    tokens: int
    first_seconds: float
    tokens_per_second: float


def reply(stage: Stage, tag: str, prompt: str, device_type: str) -> Said:
    """What the model of `stage` called `tag` makes of `prompt`, the likeliest token each time: the path of `chat_cli -p`.

    The time does not include that of loading the model. Raises `UserError` where it cannot be loaded.
    """
    runtime = start(RuntimeFlags(device_type=device_type, compile=False))
    model, tokenizer, _ = load_model(stage, tag, None, runtime.device, runtime.precision.dtype, say=lambda _: None)
    base = stage == "base"
    messages = {"messages": [{"role": "user", "content": prompt}]}
    tokens = tokenizer.encode(prompt, bos=True) if base else render_prompt(tokenizer, messages)
    engine, stop = Engine(model, tools=None if base else ToolFlags().open(tokenizer)), ending(tokenizer, base)
    drawn, times = [], [time.monotonic()]
    for (token,) in engine.stream([tokens], Sampling(temperature=0.0, max_tokens=MAX_TOKENS), stop):
        times.append(time.monotonic())
        drawn.append(token)
    text = "".join(piece.text for piece in reply_pieces(tokenizer, drawn, stop))
    return Said(text, len(drawn), times[1] - times[0], len(drawn) / (times[-1] - times[0]))
