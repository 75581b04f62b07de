"""Exports a trained model as a folder for Hugging Face's `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mc.loading import has_memory
from nanochat.checkpoint.load_model import Stage, latest_stage, open_trained
from nanochat.common import shown, typed_path
from nanochat.export.hf_model import check_out, export_model
from nanochat.export.model_card import MEMORY_LEFT_OUT
from nanochat.flags import flag, parse, run
from nanochat.runtime.device import DTYPES


@dataclass
class ExportHf:
    """Export a model for Hugging Face's transformers: weights, code, tokenizer, chat template."""

    out: str | None = flag(None, "folder to write; it must be empty or not exist")
    source: Stage | None = flag(None, "training stage of the model; None = the latest available", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; None = the newest model", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; None = the newest", alias=("-s",))
    dtype: Literal["stored", "fp32", "bf16", "fp16"] = flag("stored", "dtype of the weights; stored = that of the checkpoint")

    def __post_init__(self) -> None:
        if not self.out:
            raise ValueError("--out is missing; name the folder to write")


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the model; returns the exit code."""
    config = parse(ExportHf, argv)
    out = typed_path(config.out)
    check_out(out)
    stage = config.source or latest_stage(config.model_tag)
    trained = open_trained(stage, config.model_tag, config.step, print)
    without_memory = has_memory(trained.meta)
    if without_memory:
        print(MEMORY_LEFT_OUT)
    size = export_model(trained, stage, out, DTYPES.get(config.dtype), without_memory)
    print(f"exported to {shown(out)}: {size / 1e6:,.1f} MB of weights; load it with transformers and trust_remote_code=True")
    return 0


if __name__ == "__main__":
    run(main)
