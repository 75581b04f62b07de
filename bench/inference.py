"""Speed of generation at one shape, compared with karpathy/nanochat's engine if `--rival` is a checkout or git directory of it.

Every side is a process of its own with the same weights; they take turns, so that other load on the machine affects all of them,
and figures are medians over the rounds. `ttft_ms` is the time to the first token of one row; `tokens_per_s` counts the tokens
after the first, over all rows. In fp32 greedy decoding must give the same tokens: `agreement` is their share.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from bench.train_speed import KARPATHY_DTYPE
from nanochat import flags
from nanochat.common import ROOT, UserError
from nanochat.flags import flag


@dataclass
class InferenceSpeed:
    """Measure the time to the first token, tokens/s for several batch sizes, and memory."""

    depth: int = flag(4, "number of layers", unit="layers")
    head_dim: int = flag(64, "size of an attention head", unit="channels")
    max_seq_len: int = flag(512, "context length", unit="tokens")
    vocab_size: int = flag(8192, "vocabulary size", unit="tokens")
    prompt_tokens: int = flag(256, "length of the prompt", unit="tokens")
    new_tokens: int = flag(128, "tokens generated per row", unit="tokens")
    batches: str = flag("1,8,32", "batch sizes to measure, separated by commas")
    top_k: int = flag(50, "top-k sampling; 1 = greedy", unit="tokens")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = flag("auto", "compute dtype of our side")
    threads: int = flag(0, "threads of each side; 0 = PyTorch's default")
    rounds: int = flag(5, "turns of every side")
    rival: str = flag("", "checkout or git directory of karpathy/nanochat to compare with: unchanged, and with bf16 forced")

    def __post_init__(self) -> None:
        if min(self.rounds, self.prompt_tokens, self.new_tokens - 1, self.top_k, *self.sizes) < 1:
            raise ValueError("rounds, prompt_tokens, top_k and batches must be at least 1, new_tokens at least 2")
        if self.prompt_tokens + self.new_tokens > self.max_seq_len:
            raise ValueError(f"prompt_tokens + new_tokens is {self.prompt_tokens + self.new_tokens}; max_seq_len is {self.max_seq_len}")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be 0 or more")

    @property
    def sizes(self) -> list[int]:
        """Batch sizes."""
        try:
            return [int(size) for size in self.batches.split(",")]
        except ValueError:
            raise ValueError(f"batches is {self.batches!r}; it must be numbers separated by commas") from None


class Side:
    """Worker process and its measurements: for each batch size the seconds to the first token, and for the others."""

    def __init__(self, config: InferenceSpeed, name: str, model: Path, path: Path, dtype: str) -> None:
        self.name, self.peak = name, 0.0
        self.first: dict[int, list[float]] = {size: [] for size in config.sizes}
        self.rest: dict[int, list[float]] = {size: [] for size in config.sizes}
        side = "ours" if path == ROOT else "karpathy"
        environment = {**os.environ}
        environment.pop("NANOCHAT_DTYPE", None)
        if dtype != "auto":
            environment["NANOCHAT_DTYPE"] = dtype if side == "ours" else KARPATHY_DTYPE[dtype]
        command = [sys.executable, str(ROOT / "bench" / "inference_worker.py"), f"--side={side}", f"--path={path}", f"--model={model}"]
        command.append(f"--threads={config.threads}")
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, rows: int, prompt: list[int], config: InferenceSpeed, top_k: int, seed: int) -> dict[str, Any]:
        """Generates once. Raises `UserError` if the worker died."""
        request = {"rows": rows, "prompt": prompt, "new_tokens": config.new_tokens, "top_k": top_k, "seed": seed}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"{self.name}: the worker ended with code {self.process.wait()}; its messages are above")
        return json.loads(line)

    def measure(self, rows: int, prompt: list[int], config: InferenceSpeed, seed: int) -> None:
        """Takes a turn at a batch size."""
        answer = self.run(rows, prompt, config, config.top_k, seed)
        self.first[rows].append(answer["first_s"])
        self.rest[rows].append(answer["rest_s"])
        self.peak = max(self.peak, answer["peak_mem_mib"])

    def close(self) -> None:
        """Ends the worker."""
        self.process.stdin.close()
        self.process.wait()

    def figures(self, config: InferenceSpeed) -> dict[str, Any]:
        """Medians over the rounds."""
        return {
            "ttft_ms": 1000 * median(self.first[config.sizes[0]]),
            "tokens_per_s": {str(size): size * (config.new_tokens - 1) / median(self.rest[size]) for size in config.sizes},
            "peak_mem_mib": self.peak,
        }


def make_model(config: InferenceSpeed, folder: Path) -> list[int]:
    """Writes random weights, none of them zero, for both sides, and returns a random prompt."""
    import torch
    from safetensors.torch import save_file

    from nanochat.model.gpt import GPT, GPTConfig

    shape = GPTConfig(config.depth, 64, config.head_dim, 0, config.max_seq_len, "L", config.vocab_size)
    if shape.width != 64 * config.depth:
        raise UserError(f"depth {config.depth} has no width that head_dim {config.head_dim} divides; give another --head-dim")
    generator = torch.Generator().manual_seed(0)
    model = GPT(shape).init_weights(generator)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            parameter.data.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    model.smear_lambda.data.fill_(0.5)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(shape)))
    return torch.randint(config.vocab_size, (config.prompt_tokens,), generator=generator).tolist()


def checkout(rival: str, folder: Path) -> Path:
    """The rival's files: a checkout as it is, or the newest commit of a git directory."""
    path = Path(rival).expanduser().resolve()
    if not (path / "nanochat" / "engine.py").is_file():
        archive = subprocess.run(["git", "--git-dir", str(path), "archive", "HEAD"], capture_output=True)
        if archive.returncode != 0:
            raise UserError(f"--rival {rival} is neither a checkout of karpathy/nanochat nor a git directory; give a clone of it")
        folder.mkdir()
        subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
        path = folder
        if not (path / "nanochat" / "engine.py").is_file():
            raise UserError(f"--rival {rival} has no nanochat/engine.py; give a clone of karpathy/nanochat")
    return path


def main(argv: list[str] | None = None) -> int:
    """Measures, and prints a table and one line of JSON."""
    config = flags.parse(InferenceSpeed, argv)
    result: dict[str, Any] = {"shape": {k: v for k, v in vars(config).items() if k not in ("rival", "rounds")}}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        rivals = {"karpathy": "auto", "karpathy_bf16": "bf16"} if config.rival else {}
        path = checkout(config.rival, folder / "rival") if config.rival else None
        prompt = make_model(config, folder)
        sides = [Side(config, "ours", folder, ROOT, config.dtype)]
        sides += [Side(config, name, folder, path, dtype) for name, dtype in rivals.items()]
        for side in sides:
            stack.callback(side.close)
        greedy = {side.name: side.run(1, prompt, config, 1, 0)["tokens"] for side in sides}  # also the warm-up
        for size in config.sizes:
            for side in sides:
                side.run(size, prompt, config, config.top_k, 0)
            for i in range(config.rounds):
                for side in sides:
                    side.measure(size, prompt, config, i)
    figures = {side.name: side.figures(config) for side in sides}
    for name, figure in figures.items():
        rates = "  ".join(f"{size} rows {rate:9,.0f}" for size, rate in figure["tokens_per_s"].items())
        print(f"{name:14s} first token {figure['ttft_ms']:7.1f} ms   tokens/s: {rates}   peak {figure['peak_mem_mib']:,.0f} MiB")
    result |= figures["ours"]
    for name in rivals:
        result[name] = figures[name]
        rates, theirs = (figures[side]["tokens_per_s"] for side in ("ours", name))
        result[f"vs_{name}"] = {size: rates[size] / theirs[size] for size in rates}
        same = zip(greedy["ours"], greedy[name], strict=True)
        result[f"{name}_agreement"] = sum(a == b for a, b in same) / config.new_tokens
    print(json.dumps(rounded(result)))
    return 0


def rounded(value: Any) -> Any:
    """A nested value with its floats rounded to three places."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    flags.run(main)
