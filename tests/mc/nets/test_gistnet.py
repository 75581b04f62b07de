"""GistNet: what a gist depends on, what it is at the start, and that training moves all of it."""

from __future__ import annotations

import itertools

import pytest
import torch

from mc.nets.gistnet import GistConfig, GistNet
from nanochat.model.gpt import norm
from tests.helpers.tiny_memory import WIDTH, assert_training_moves_everything, tiny_gistnet, tiny_memory

TYPES = [
    {"gistnet_type": kind, "gistnet_pooling": pooling}
    for kind, pooling in itertools.product(("transformer", "mean", "context"), ("mean", "query", "cls"))
    if pooling != "cls" or kind == "transformer"
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("config", TYPES, ids=lambda c: "-".join(c.values()))
def test_what_the_network_says_of_a_node_depends_on_every_child(config: dict, slots: int) -> None:
    """Without the mean that is added to it, which would hide a network that sees nothing. Slots that pool a share of what no
    encoder has seen depend on that share."""
    net = tiny_gistnet(**config, gist_slots=slots)
    said: list[torch.Tensor] = []
    net.c_out.register_forward_hook(lambda module, inputs, output: said.append(output))
    children, hidden = normal(2, 8, WIDTH), normal(2, 8, WIDTH, seed=1)
    contextual = config["gistnet_type"] == "context"
    net(children, hidden if contextual else None)
    shares = config["gistnet_type"] != "transformer" and config["gistnet_pooling"] == "mean"
    for child in range(8):
        read = (hidden if contextual else children).clone()
        read[1, child] += normal(WIDTH, seed=2)
        net(children if contextual else read, read if contextual else None)
        change = (said[-1] - said[0]).abs().amax(-1)  # (2, S)
        assert (change[0] < 1e-6).all(), "another node"
        expected = [not shares or child * slots // 8 == slot for slot in range(slots)]
        assert (change[1] > 1e-4).tolist() == expected
    if contextual:  # the embeddings are in the mean alone
        net(normal(2, 8, WIDTH, seed=4), hidden)
        assert torch.equal(said[-1], said[0])


@pytest.mark.parametrize("config", [c for c in TYPES if c["gistnet_type"] == "transformer"], ids=lambda c: c["gistnet_pooling"])
def test_an_encoder_knows_the_order_of_the_children(config: dict) -> None:
    net = tiny_gistnet(**config)
    children = normal(1, 8, WIDTH)
    assert (net(children) - net(children.flip(1))).abs().max() > 1e-3


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("config", TYPES, ids=lambda c: "-".join(c.values()))
def test_at_the_start_a_gist_is_the_normalised_mean_of_its_children(config: dict, slots: int) -> None:
    net = GistNet(GistConfig(**config, gist_slots=slots), WIDTH).init_weights(torch.Generator().manual_seed(0))
    children = normal(3, 8, WIDTH)
    gist = net(children, normal(3, 8, WIDTH, seed=1) if config["gistnet_type"] == "context" else None)
    for slot in range(slots):
        share = norm(children)[:, slot * 8 // slots : (slot + 1) * 8 // slots]
        torch.testing.assert_close(gist[:, slot], norm(share.mean(1)))


@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("layers", [2, 4])
def test_layers_and_head_are_those_asked_for(layers: int, head: str) -> None:
    net = tiny_gistnet(gistnet_layers=layers, gistnet_head=head)
    assert len(net.encoder.blocks) == layers and (net.head is not None) == (head == "mlp")
    assert net(normal(2, 8, WIDTH)).shape == (2, 1, WIDTH)


def test_gists_have_the_scale_of_embeddings() -> None:
    gist = tiny_gistnet(gist_slots=2)(100 * normal(5, 8, WIDTH))
    torch.testing.assert_close(gist.square().mean(-1), torch.ones(5, 2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("children", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_gists_come_in_the_dtype_of_the_children(own: torch.dtype, children: torch.dtype) -> None:
    net = tiny_gistnet(dtype=own, gistnet_pooling="cls")
    inside: list[torch.dtype] = []
    net.c_out.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    gist = net(normal(2, 8, WIDTH).to(children))
    assert gist.dtype == children and inside == [own]
    torch.testing.assert_close(gist.float(), tiny_gistnet(gistnet_pooling="cls")(normal(2, 8, WIDTH)), rtol=0, atol=0.1)


@pytest.mark.parametrize("kind", ["mean", "context"])
def test_cls_pooling_without_an_encoder_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="^invalid gistnet_pooling cls"):
        GistConfig(gistnet_type=kind, gistnet_pooling="cls")


TRAINED = [
    *({**config, "gist_slots": slots} for config, slots in zip(TYPES, itertools.cycle((1, 2, 4)), strict=False)),
    {"gistnet_pooling": "cls", "gist_slots": 4, "gistnet_layers": 4, "gistnet_head": "linear"},
    {"gistnet_pooling": "query", "gist_slots": 1, "gistnet_head": "linear"},
    {"gistnet_type": "context", "gistnet_head": "linear", "gist_slots": 2},
]


@pytest.mark.parametrize("config", TRAINED, ids=lambda c: "-".join(map(str, c.values())))
def test_training_moves_every_parameter_and_a_checkpoint_holds_it(config: dict) -> None:
    assert_training_moves_everything(tiny_memory(gist=config, initialised=True), "gistnet.")
