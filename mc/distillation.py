"""What a Working Context should predict: as the whole row does.

Shapes: `V` variants, `B` rows, `P` predictions that both make, `D` width. Source of the idea: context distillation (Cartridges,
arXiv 2506.06266).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanochat.model.cross_entropy import CHUNK_BYTES
from nanochat.model.gpt import GPT


def distillation_loss(model: GPT, teacher: Tensor, student: Tensor) -> Tensor:
    """Mean KL(teacher ‖ student) of the predictions at hidden states [B,P,D] and [V,B,P,D], in nats, fp32.

    The teacher gets no gradient. Logits exist for a chunk at a time, and once more in the backward.
    """
    V, D = student.shape[0], student.shape[-1]
    teacher, student = teacher.detach().reshape(-1, D), student.reshape(V, -1, D)
    budget = CHUNK_BYTES.get(teacher.device.type, CHUNK_BYTES["cpu"])
    size = max(1, budget // (4 * (V + 1) * model.config.vocab_size))
    total = teacher.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(teacher), size):
        chunk = slice(begin, begin + size)
        total = total + checkpoint(_divergence, model, teacher[chunk], student[:, chunk], use_reentrant=False)
    return total / (V * len(teacher))


def _divergence(model: GPT, teacher: Tensor, student: Tensor) -> Tensor:
    with torch.no_grad():
        reference = model.logits(teacher).log_softmax(-1)
    mine = model.logits(student).log_softmax(-1)
    return (reference.exp() * (reference - mine)).sum()
