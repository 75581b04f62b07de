"""Model card of an exported model: what it is, how it is loaded, what is left out."""

from __future__ import annotations

from nanochat import markdown
from nanochat.checkpoint.load_model import Stage, Trained
from nanochat.infer.sampling import Sampling
from nanochat.model.gpt import GPTConfig

STAGES: dict[Stage, str] = {
    "base": "pretrained; it continues text",
    "mid": "pretrained and midtrained on conversations",
    "sft": "pretrained, midtrained and fine-tuned on conversations",
    "rl": "pretrained, fine-tuned on conversations, and trained with reinforcement learning",
}
MEMORY_LEFT_OUT = "The model was trained with a MegaContext, a long-term memory. The memory is left out: this is its language model alone."
BASE_USE = """inputs = tokenizer("The capital of France is", return_tensors="pt")  # begins with <|bos|>, as all texts of the training do
print(tokenizer.decode(model.generate(**inputs)[0]))"""
CHAT_USE = """messages = [{"role": "user", "content": "Who are you?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(reply, skip_special_tokens=True))"""


def model_card(trained: Trained, stage: Stage, config: GPTConfig, parameters: int, dtype: str, without_memory: bool) -> str:
    """The card as Markdown, with the header that the Hugging Face hub reads."""
    name = f"{trained.folder.name}-{stage}"
    sampling = Sampling()
    memory = f"\n{MEMORY_LEFT_OUT}\n" if without_memory else ""
    shape = [f"{parameters:,}", config.depth, config.width, config.heads, config.key_heads, config.max_seq_len, config.vocab_size, dtype]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [megacontext]
---
# {name}

A language model of MegaContext, {STAGES[stage]}: checkpoint {trained.folder.name} of the stage {stage}, step {trained.checkpoint.step}.
{memory}
{markdown.table(["parameters", "layers", "width", "heads", "key/value heads", "context", "vocabulary", "dtype"], [shape])}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
{BASE_USE if stage == "base" else CHAT_USE}
```

- `generate` uses a KV cache and is greedy by default; the training code samples with `do_sample=True, temperature={sampling.temperature},
  top_k={sampling.top_k}`. Beyond {config.max_seq_len} tokens the text gets worse.
- Rows of a batch are padded on the left (`tokenizer(texts, padding=True, return_tensors="pt")`); pass their `attention_mask`.
- `tokenizer(text)` begins with `<|bos|>`; with `add_special_tokens=False` it does not. Text that spells a special token is text. Loaded
  without `trust_remote_code` it becomes that token, as in other tokenizers.
- The chat template takes system, user, assistant and tool messages. Code that the assistant runs is content of type `python`, its output
  `python_output`; calls of tools become such code. With `add_generation_prompt` a reply that comes last is left out: it is the one that is
  asked for. `generate` runs no code: where the model writes `<|python_end|>`, the training code's engine would insert the output.
"""
