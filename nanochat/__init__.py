"""The language-model stack: tokenizer, data, model, optimizer, training, evaluation, inference."""
