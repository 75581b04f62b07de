"""Exported models of a few thousand parameters, loaded by transformers. Tests without it are skipped by their fixture `hugging_face`.

    def test_x(hugging_face: None, tmp_path: Path) -> None:
        model, tokenizer = load(export(tmp_path, tiny_model(vocab_size=300), tiny_tokenizer()))

Import `hugging_face` into the conftest.py of the folder that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from nanochat.checkpoint.load_model import Stage, Trained
from nanochat.checkpoint.store import CheckpointStore
from nanochat.data.tokenizer import Tokenizer
from nanochat.export.hf_model import export_model
from nanochat.model.gpt import GPT
from tests.helpers.tiny_model import save_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Loaded(NamedTuple):
    """A model and its tokenizer as transformers has them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies the code of models into a folder of the tests' own: one in all, because a process imports them from one only."""
    pytest.importorskip("transformers", reason="transformers is not installed; ./mc_setup --dev installs it")
    from transformers import dynamic_module_utils

    patch = pytest.MonkeyPatch()
    patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.getbasetemp() / "modules"))
    yield
    patch.undo()


def export(folder: Path, model: GPT, tokenizer: Tokenizer, stage: Stage = "base", dtype: torch.dtype | None = None) -> Path:
    """Exports `model` by way of a checkpoint, and returns the folder."""
    step = save_base(folder / "base", model, tokenizer)
    trained = Trained(CheckpointStore(step.parent).load(7, ("model",)), step.parent, tokenizer)
    out = folder / "exported"
    export_model(trained, stage, out, dtype, without_memory=False)
    return out


def load(folder: Path, **options: Any) -> Loaded:
    """The model in `folder`; `options` are arguments of `from_pretrained`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return Loaded(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval(), tokenizer)
