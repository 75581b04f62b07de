"""Configuration of a MegaContext language model for transformers."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MegaContextConfig(PretrainedConfig):
    """Shape and constants of the model.

    `attention_windows` has one number for each layer: how many tokens a token sees, itself included; 0 = all before it.
    """

    model_type = "megacontext"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(
        self,
        vocab_size: int = 32768,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 6,
        num_key_value_heads: int = 6,
        head_dim: int = 128,
        max_position_embeddings: int = 2048,
        attention_windows: list[int] | None = None,
        rotary_base: float = 100_000.0,
        qk_gain: float = 1.2,
        value_gain: float = 3.0,
        gate_channels: int = 12,
        smear_channels: int = 24,
        logit_softcap: float = 15.0,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.attention_windows = attention_windows or [0] * num_hidden_layers
        self.rotary_base = rotary_base
        self.qk_gain = qk_gain
        self.value_gain = value_gain
        self.gate_channels = gate_channels
        self.smear_channels = smear_channels
        self.logit_softcap = logit_softcap
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": False} | kwargs)
