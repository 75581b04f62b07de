"""Worker of `bench.inference`: loads a model and generates on request.

Reads one JSON object per line, `{"rows", "prompt", "new_tokens", "top_k", "seed"}`, and answers each with one: the seconds to
the first token, the seconds for the others, and the first row's tokens. Run as a file, so that `import nanochat` finds the
implementation in `--path`, which may be another project's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Generate = Callable[[dict], Iterator[list]]  # a request → the new token of each row, step by step


def ours(folder: Path) -> tuple[Generate, str]:
    """This project's engine on the model in `folder`."""
    import torch

    from nanochat.infer.engine import Engine
    from nanochat.infer.sampling import Sampling
    from nanochat.model.gpt import GPT, GPTConfig
    from nanochat.runtime.device import RuntimeFlags, start

    runtime = start(RuntimeFlags(compile=False))
    with torch.device("meta"):
        model = GPT(GPTConfig(**json.loads((folder / "config.json").read_text())), runtime.precision.dtype, runtime.backend)
    tensors = {name: tensor.to(runtime.device, runtime.precision.dtype) for name, tensor in load(folder).items()}
    model.load_state_dict(tensors, assign=True)
    engine = Engine(model.requires_grad_(False).eval())

    def generate(request: dict) -> Iterator[list]:
        temperature = 0.0 if request["top_k"] == 1 else 1.0
        sampling = Sampling(temperature, request["top_k"], max_tokens=request["new_tokens"], seed=request["seed"])
        return engine.stream([request["prompt"]], sampling, samples=request["rows"])

    return generate, runtime.describe()


def karpathy(folder: Path) -> tuple[Generate, str]:
    """karpathy/nanochat's engine, with its own model and the same weights."""
    import torch
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    from nanochat.common import COMPUTE_DTYPE

    config = json.loads((folder / "config.json").read_text())
    depth, width = config["depth"], config["depth"] * config["aspect_ratio"]
    heads = width // config["head_dim"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        model = GPT(GPTConfig(config["max_seq_len"], config["vocab_size"], depth, heads, heads, width, config["window_pattern"]))
    model.to_empty(device=device)
    model.init_weights()
    tensors = load(folder)
    values = tensors.pop("value_embeds.weight").split(width, dim=1)
    theirs = {
        f"value_embeds.{layer}.weight": v for layer, v in zip([i for i in range(depth) if (depth - 1 - i) % 2 == 0], values, strict=True)
    }
    for name, tensor in tensors.items():
        name = name.replace("wte.", "transformer.wte.").replace("blocks.", "transformer.h.").replace("value_gate", "ve_gate")
        if "c_q" in name or "c_k" in name:  # it rotates heads in the other direction: equal to ours with the halves swapped
            tensor = tensor.view(-1, 2, config["head_dim"] // 2, width).flip(1).reshape(tensor.shape)
        theirs[name] = tensor
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = theirs.pop(name)
            parameter[: len(tensor)].copy_(tensor)  # it pads the vocabulary, and never samples the padding
    assert not theirs, sorted(theirs)
    model.eval()

    class NoTools:
        """Tokenizer whose special tokens the model never samples."""

        def encode_special(self, name: str) -> int:
            return -1

        def get_bos_token_id(self) -> int:
            return -1

    engine = Engine(model, NoTools())

    def generate(request: dict) -> Iterator[list]:
        temperature = 0.0 if request["top_k"] == 1 else 1.0
        arguments = {"temperature": temperature, "top_k": request["top_k"], "seed": request["seed"]}
        for tokens, _ in engine.generate(request["prompt"], request["rows"], request["new_tokens"], **arguments):
            yield tokens

    return generate, f"karpathy/nanochat on {device}, {COMPUTE_DTYPE}"


def load(folder: Path) -> dict:
    """Tensors in `folder`."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def answer(generate: Generate, request: dict) -> dict:
    """Runs and times a request."""
    begin = time.perf_counter()
    steps = generate(request)
    first, before = [next(steps)[0]], time.perf_counter()
    first += [tokens[0] for tokens in steps]
    end = time.perf_counter()
    return {"first_s": before - begin, "rest_s": end - before, "tokens": first}


def main() -> None:
    """Serves until its input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("ours", "karpathy"), required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.path)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        generate, description = {"ours": ours, "karpathy": karpathy}[arguments.side](arguments.model)
        print(description, file=sys.stderr)
        for line in sys.stdin:
            result = answer(generate, json.loads(line))
            on_cuda = torch.cuda.is_available()
            peak = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            print(json.dumps({**result, "peak_mem_mib": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
