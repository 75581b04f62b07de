"""Part `decode`: tokens decoded one by one with a KV cache against a full forward, and the speed of the engine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.acceptance.attention_error import relative_error
from bench.acceptance.lab import Lab
from bench.acceptance.record import Record
from bench.inference import InferenceSpeed, make_model
from bench.inference_worker import answer, ours
from nanochat.infer.kv_cache import KVCache
from nanochat.infer.step_graphs import capture_for
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.runtime.device import RuntimeFlags, start

SPEED = InferenceSpeed(depth=12, head_dim=128, max_seq_len=2048, vocab_size=32768, prompt_tokens=512, new_tokens=256, batches="1,8,32,128")
TOY = InferenceSpeed(depth=2, head_dim=16, max_seq_len=64, vocab_size=300, prompt_tokens=24, new_tokens=16, batches="1,2")
COMPARED = 100  # tokens: more than a cache has left, so that it grows while a graph is replayed
# Relative error of the logits against fp32: of a full forward (on a CPU in bf16 it is 0.01), and of decoded ones relative to that.
ROUNDED, WORSE, LEAST = 0.05, 2.0, 1e-4
ROUNDS = 3


def run(lab: Lab, record: Record) -> None:
    """Compares logits, then times the engine with 1 row and more."""
    config = TOY if lab.toy else SPEED
    runtime = start(RuntimeFlags(device_type=lab.device_type, compile=False))
    record.report("runtime", runtime.describe())
    if lab.toy:
        record.skip("CUDA graphs of decode steps", "a CPU has none")
    else:
        record.equal("CUDA graphs of decode steps", capture_for(runtime.device) is not None, True, "else the engine warns, and is slower")
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        prompt = make_model(config, folder)
        tokens = torch.tensor([prompt[: config.prompt_tokens]], device=runtime.device)
        models = [load(folder, runtime.device, dtype) for dtype in (torch.float32, runtime.precision.dtype)]
        torch.set_float32_matmul_precision("highest")
        exact, whole = (full_logits(model, tokens)[0, -COMPARED:] for model in models)
        decoded = decoded_logits(models[1], tokens)
        errors = [relative_error(logits.float(), exact) for logits in (whole, decoded)]
        record.at_most("full forward", errors[0], ROUNDED, f"relative error of the logits in {runtime.precision.name} against fp32")
        record.at_most("decoded", errors[1], max(WORSE * errors[0], LEAST), "relative error of the logits against fp32")
        del models
        generate, _ = ours(folder)
        request = {"prompt": prompt, "new_tokens": config.new_tokens, "top_k": config.top_k, "seed": 0}
        for rows in config.sizes:
            answers = [answer(generate, {**request, "rows": rows}) for _ in range(ROUNDS)][1:]  # without the first, which warms up
            record.report(
                f"{rows} rows: first token", 1e3 * min(each["first_s"] for each in answers), f"ms, {len(prompt)} tokens of prompt"
            )
            rate = rows * (config.new_tokens - 1) / min(each["rest_s"] for each in answers)
            record.report(f"{rows} rows: tokens/s", rate, f"{1e3 * rows / rate:.2f} ms for a token of each row")


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> GPT:
    """The model of `bench.inference.make_model`."""
    with torch.device("meta"):
        model = GPT(GPTConfig(**json.loads((folder / "config.json").read_text())), dtype)
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()


def full_logits(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [B,T,V] without a cache."""
    return model.logits(model.backbone(model.embed(tokens), model.rotary(0, tokens.shape[1])))


def decoded_logits(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [COMPARED,V] of the last tokens, given one by one to a cache that has the others."""
    first = max(1, tokens.shape[1] - COMPARED)
    cache = KVCache(model, 1, capacity=first)
    hidden = [cache.append(tokens[:, :first])]
    hidden += [cache.append(tokens[:, i : i + 1]) for i in range(first, tokens.shape[1])]
    return model.logits(torch.cat(hidden))[-COMPARED:]
