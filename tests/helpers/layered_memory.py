"""Small layered memories of real models, and sessions of them."""

from __future__ import annotations

import torch

from mc.config import AllocatorConfig, MCConfig, SessionConfig
from mc.memory_model import MemoryModel
from mc.nets.gistnet import GistConfig
from mc.session.base_session import session_spec
from mc.session.layered_session import LayeredSession
from mc.session.tree import RamTree
from tests.helpers.tiny_memory import randomise
from tests.helpers.tiny_model import tiny_model

K = 8
T = 128  # trained length
VOCAB = 61


def layered_memory(seed: int = 0, dtype: torch.dtype = torch.float32, slots: int = 1, trained: bool = False, **model) -> MemoryModel:
    """A memory of rows of `T` tokens in blocks of `K`, of which 16 stay raw; `trained`: its networks are not at their start."""
    gpt = tiny_model(seed, dtype, **({"max_seq_len": T, "head_dim": 16, "kv_heads": 0} | model))
    config = MCConfig(gist=GistConfig(gistnet_type="layered", gist_slots=slots), block_size=K, allocator_recent_tokens=2 * K, mc_horizon=8)
    memory = MemoryModel(gpt, config, T).init_weights(torch.Generator().manual_seed(seed))
    if trained:
        randomise(memory.lensnet, seed + 1)
        for parameter in memory.gistnet.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(seed))
    return memory.requires_grad_(False).eval()


def session_config(most: int = 0, interval: int = K, levels: int = 3, **options) -> SessionConfig:
    """Configuration of sessions with Working Contexts of `most` entries (0: the default)."""
    allocator = AllocatorConfig(allocator_soft_max_length=most)
    return SessionConfig(mc_session_lod=levels, mc_infer_refocus_interval=interval, allocator=allocator, **options)


def layered_session(memory: MemoryModel, config: SessionConfig, **options) -> LayeredSession:
    """A session in RAM."""
    return LayeredSession(memory, RamTree(session_spec(memory, config), memory.device), config, **options)


def some_tokens(n: int, seed: int = 0) -> torch.Tensor:
    """Random tokens, int64 [n]."""
    return torch.randint(VOCAB, (n,), generator=torch.Generator().manual_seed(seed))
