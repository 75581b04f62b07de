"""Samples of a base model: completions of a few fixed prompts, and of BOS alone."""

from __future__ import annotations

from nanochat.data.tokenizer import Tokenizer
from nanochat.infer.engine import Engine
from nanochat.infer.sampling import Sampling
from nanochat.model.gpt import GPT

# Prompts that suit a corpus of English and Python.
PROMPTS = (
    "The capital of France is",
    "The most important thing to remember is",
    "This module provides",
    "Returns True if",
    "import os\nimport",
    "def add(a, b):\n    return",
    "class Node:\n    def __init__(self,",
)
UNCONDITIONED = 4


def sample_base(model: GPT, tokenizer: Tokenizer, unconditioned: int = UNCONDITIONED) -> list[dict[str, str]]:
    """`{"prompt", "text"}` for each of `PROMPTS` and for `unconditioned` documents. The same model gives the same texts."""
    engine, stop = Engine(model), (tokenizer.bos_id,)
    prompts = [tokenizer.encode(prompt, bos=True) for prompt in PROMPTS]
    completions = engine.generate(prompts, Sampling(temperature=0.6, max_tokens=48), stop)
    if unconditioned:
        completions += engine.generate([[tokenizer.bos_id]], Sampling(temperature=0.9, max_tokens=96), stop, unconditioned)
    shown = (*PROMPTS, *[""] * unconditioned)
    return [{"prompt": prompt, "text": tokenizer.decode(c.said)} for prompt, c in zip(shown, completions, strict=True)]
