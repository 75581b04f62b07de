"""The language-model stack: tokenizer, data, model, optimizer, training, evaluation, inference."""

from nanochat.process import begin

begin()  # before torch is loaded; nothing unless a module is run with `python -m`
