"""An exported model in transformers itself: the logits, the tokens of `generate`, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nanochat.infer.conversation import ending
from nanochat.infer.engine import Engine
from nanochat.infer.sampling import Sampling
from nanochat.model.gpt import GPT
from tests.helpers.exported import Loaded, export, load
from tests.helpers.tiny_model import full_logits, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
# Every layer sees all; and grouped queries, windows, an even depth, tokens beyond the training length.
CONFIGS = {"plain": {}, "windows": {"depth": 4, "aspect_ratio": 8, "kv_heads": 2, "window_pattern": "SL", "max_seq_len": 16}}
PROMPTS = [TOKENIZER.encode(text, bos=True) for text in ("The capital of France is", "def", "Grüße, señor — 東京", "")]


class Both:
    """One model, ours and theirs."""

    def __init__(self, folder: Path, **config) -> None:
        self.ours: GPT = tiny_model(vocab_size=TOKENIZER.vocab_size, **config)
        self.folder = export(folder, self.ours, TOKENIZER, "sft")
        self.theirs: Loaded = load(self.folder)

    def replies(self, tokens: int) -> list[list[int]]:
        """Our continuations of `PROMPTS`."""
        sampling = Sampling(temperature=0, max_tokens=tokens)
        return [c.tokens for c in Engine(self.ours).generate(PROMPTS, sampling, ending(TOKENIZER, base=False))]


@pytest.fixture(scope="module", params=CONFIGS)
def both(request: pytest.FixtureRequest, hugging_face: None, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp(request.param), **CONFIGS[request.param])


def test_logits_are_ours(both: Both) -> None:
    tokens = torch.randint(0, TOKENIZER.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = both.theirs.model(tokens).logits
        few = both.theirs.model(tokens, logits_to_keep=3).logits
    expected = torch.stack([full_logits(both.ours, row.tolist()) for row in tokens])
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(few, expected[:, -3:], atol=2e-5, rtol=0)


def test_the_loss_is_ours(both: Both) -> None:
    tokens = torch.randint(0, TOKENIZER.vocab_size, (2, 15), generator=torch.Generator().manual_seed(2))
    loss = both.theirs.model(tokens, labels=tokens).loss
    with torch.no_grad():
        torch.testing.assert_close(loss.detach(), both.ours(tokens[:, :-1], tokens[:, 1:]), atol=1e-5, rtol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in both.theirs.model.parameters())


def test_generate_is_the_engine_at_temperature_0(both: Both) -> None:
    for prompt, reply in zip(PROMPTS, both.replies(30), strict=True):
        row = torch.tensor([prompt])
        for use_cache in (True, False):
            out = both.theirs.model.generate(row, max_new_tokens=30, use_cache=use_cache)
            assert out[0].tolist() == [*prompt, *reply]


def test_a_batch_padded_on_the_left_is_the_engine(both: Both) -> None:
    rows = both.theirs.tokenizer.pad({"input_ids": PROMPTS}, padding=True, return_tensors="pt")
    assert rows["attention_mask"].sum(1).tolist() == [*map(len, PROMPTS)] and rows["attention_mask"][-1, :-1].sum() == 0
    out = both.theirs.model.generate(**rows, max_new_tokens=30)[:, rows["input_ids"].shape[1] :]
    for row, reply in zip(out.tolist(), both.replies(30), strict=True):
        assert row[: len(reply)] == reply and set(row[len(reply) :]) <= {TOKENIZER.special_tokens["<|assistant_end|>"]}


def test_padding_changes_no_logits(both: Both) -> None:
    rows = both.theirs.tokenizer.pad({"input_ids": PROMPTS}, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = both.theirs.model(**rows).logits
    for row, prompt in zip(logits, PROMPTS, strict=True):
        torch.testing.assert_close(row[-len(prompt) :], full_logits(both.ours, prompt), atol=2e-5, rtol=0)


def test_the_cache_holds_in_pieces_in_beams_and_when_cropped(both: Both) -> None:
    model, tokens = both.theirs.model, torch.tensor([PROMPTS[0] + PROMPTS[2]])
    expected = full_logits(both.ours, tokens[0].tolist())
    with torch.no_grad():
        first = model(tokens[:, :9], use_cache=True)
        second = model(tokens[:, 9:], past_key_values=first["cache" if "cache" in first else "past_key_values"])
        torch.testing.assert_close(torch.cat([first.logits, second.logits], 1)[0], expected, atol=2e-5, rtol=0)
        cache = second["cache" if "cache" in second else "past_key_values"]
        cache.crop(-(tokens.shape[1] - 5))
        torch.testing.assert_close(model(tokens[:, 5:], past_key_values=cache).logits[0], expected[5:], atol=2e-5, rtol=0)
    beams = [model.generate(tokens, max_new_tokens=12, num_beams=3, use_cache=use_cache).tolist() for use_cache in (True, False)]
    assert beams[0] == beams[1]


def test_what_the_model_does_not_have_is_refused(both: Both) -> None:
    from transformers import StaticCache

    model, row = both.theirs.model, torch.tensor([PROMPTS[0]])
    with pytest.raises(ValueError, match="expected input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size))
    with pytest.raises(ValueError, match="expected a DynamicCache"):
        model(row, past_key_values=StaticCache(config=model.config, max_cache_len=40))
    with pytest.raises(ValueError, match="invalid attention_mask of shape"):
        model(row, attention_mask=torch.ones(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="output_attentions"):
        model(row, output_attentions=True)
    with pytest.raises(NotImplementedError, match="vocabulary cannot be resized"):
        model.resize_token_embeddings(400)


def test_states_and_tuples_are_given_when_asked_for(both: Both) -> None:
    row = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        output = both.theirs.model(row, output_hidden_states=True)
        first = both.theirs.model(row, return_dict=False)[0]
    assert len(output.hidden_states) == both.ours.config.depth + 1
    last = both.ours.logits(output.hidden_states[-1])
    torch.testing.assert_close(last, output.logits, atol=2e-5, rtol=0)
    assert torch.equal(first, output.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_have_the_dtype_that_is_wanted(hugging_face: None, tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_model(vocab_size=TOKENIZER.vocab_size)
    folder = export(tmp_path, model, TOKENIZER, dtype=dtype)
    loaded = load(folder).model
    assert loaded.dtype == dtype and json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    cast = tiny_model(dtype=dtype, vocab_size=TOKENIZER.vocab_size).to(dtype)
    with torch.no_grad():
        logits = loaded(torch.tensor([PROMPTS[0]])).logits[0]
    torch.testing.assert_close(logits, full_logits(cast, PROMPTS[0]), atol=0.15, rtol=0)


def test_a_saved_copy_is_the_same_model(both: Both, tmp_path: Path) -> None:
    """As after fine-tuning with transformers: the code goes with the weights."""
    both.theirs.model.save_pretrained(tmp_path)
    both.theirs.tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load(tmp_path)
    row = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        assert torch.equal(model(row).logits, both.theirs.model(row).logits)
    text = "a <|bos|> b"
    assert tokenizer(text)["input_ids"] == TOKENIZER.encode(text, bos=True)
    assert model.generation_config.eos_token_id == both.theirs.model.generation_config.eos_token_id
