"""The model against mathematics written out position by position."""

from __future__ import annotations

import math

import pytest
import torch

from nanochat.model.block import rotary_at
from nanochat.model.cross_entropy import plain_cross_entropy
from nanochat.model.gpt import GPT, GPTConfig
from tests.helpers.tiny_model import tiny_model


def naive_hidden(model: GPT, tokens: list[int]) -> torch.Tensor:
    """Hidden states [T,D] in fp64, one position, one head at a time, from the definitions."""
    p = {name: value.double() for name, value in model.named_parameters()}
    c = model.config
    E, H, G, L = c.head_dim, c.heads, c.key_heads, c.depth

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    def rotated(x: torch.Tensor, t: int) -> torch.Tensor:
        out = torch.empty_like(x)
        for i in range(E // 2):
            angle = t * 100_000.0 ** (-2 * i / E)
            out[i] = x[i] * math.cos(angle) - x[i + E // 2] * math.sin(angle)
            out[i + E // 2] = x[i + E // 2] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    plain = [norm(p["wte.weight"][token]) for token in tokens]
    xs = []
    for t, x in enumerate(plain):
        gate = p["smear_lambda"] * torch.sigmoid(p["smear_gate.weight"] @ x[:24])
        xs.append(x + gate * plain[t - 1] if t else x)
    x0s, middle = list(xs), None
    for layer in range(L):
        w = {name.removeprefix(f"blocks.{layer}."): value for name, value in p.items() if name.startswith(f"blocks.{layer}.")}
        xs = [p["resid_lambdas"][layer] * x + p["x0_lambdas"][layer] * x0 for x, x0 in zip(xs, x0s, strict=True)]
        queries, keys, values = [], [], []
        for t, x in enumerate(xs):
            n = norm(x)
            q, k, v = (w[f"attn.c_{name}.weight"] @ n for name in "qkv")
            q, k, v = q.view(H, E), k.view(G, E), v.view(G, E)
            if (L - 1 - layer) % 2 == 0:
                slot = [i for i in range(L) if (L - 1 - i) % 2 == 0].index(layer)
                embed = p["value_embeds.weight"][tokens[t]].view(-1, G, E)[slot]
                v = v + (3 * torch.sigmoid(w["attn.value_gate.weight"] @ n[:12]))[:, None] * embed
            queries.append([rotated(1.2 * norm(h), t) for h in q])
            keys.append([rotated(1.2 * norm(h), t) for h in k])
            values.append(v)
        window = c.windows[layer] or len(tokens)
        for t in range(len(tokens)):
            heads = []
            for h in range(H):
                g = h // (H // G)
                seen = range(max(0, t - window + 1), t + 1)
                scores = torch.stack([queries[t][h] @ keys[s][g] / E**0.5 for s in seen])
                heads.append(sum(a * values[s][g] for a, s in zip(scores.softmax(0), seen, strict=True)))
            xs[t] = xs[t] + w["attn.c_proj.weight"] @ torch.cat(heads)
        xs = [x + w["mlp.c_proj.weight"] @ (w["mlp.c_fc.weight"] @ norm(x)).relu().square() for x in xs]
        if layer == L // 2:
            middle = list(xs)
    return torch.stack([norm(x - p["backout_lambda"] * m) for x, m in zip(xs, middle, strict=True)])


@pytest.mark.parametrize("config", [{}, {"kv_heads": 2}, {"window_pattern": "S"}, {"depth": 4, "window_pattern": "SSL", "kv_heads": 1}])
def test_model_is_its_definition(config: dict) -> None:
    model = tiny_model(**config)
    tokens = torch.randint(61, (19,), generator=torch.Generator().manual_seed(1)).tolist()
    row = torch.tensor([tokens])
    hidden = model.backbone(model.embed(row), model.rotary(0, 19))[0]
    expected = naive_hidden(model, tokens)
    torch.testing.assert_close(hidden.double(), expected, rtol=0, atol=2e-5)

    logits = 15 * torch.tanh(expected @ model.lm_head.weight.double().t() / 15)
    nats = -logits[:-1].log_softmax(-1)[torch.arange(18), row[0, 1:]]
    losses = model(row[:, :-1], row[:, 1:], "none")
    torch.testing.assert_close(losses[0].double(), nats, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(row[:, :-1], row[:, 1:]).double(), nats.mean(), rtol=0, atol=1e-5)


def test_loss_of_ignored_targets_is_zero_and_does_not_count() -> None:
    model = tiny_model()
    tokens = torch.arange(24).view(2, 12)
    targets = tokens + 1
    targets[0, 3:9] = -1
    each = model(tokens, targets, "none")
    assert (each[0, 3:9] == 0).all()
    torch.testing.assert_close(model(tokens, targets), each.sum() / 18)


def test_chunked_loss_and_its_gradients_equal_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.model.cross_entropy.CHUNK_BYTES", {"cpu": 61 * 4 * 5})  # five predictions in a chunk
    model = tiny_model().requires_grad_(True)
    tokens = torch.randint(61, (2, 13), generator=torch.Generator().manual_seed(2))
    gradients, losses = [], []
    for chunked in (False, True):
        model.use_kernels(compiled=False, chunked_ce=chunked)
        assert (model.cross_entropy is plain_cross_entropy) != chunked
        model.zero_grad()
        losses.append(model(tokens[:, :-1], tokens[:, 1:]))
        losses[-1].backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_every_parameter_has_a_gradient() -> None:
    model = tiny_model(depth=4).requires_grad_(True)
    tokens = torch.randint(61, (2, 13), generator=torch.Generator().manual_seed(2))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_initial_weights_depend_on_the_generator_alone_and_start_at_a_uniform_guess() -> None:
    config = GPTConfig(depth=2, aspect_ratio=16, head_dim=8, max_seq_len=16, window_pattern="L", vocab_size=200)
    first, second, other = (GPT(config).init_weights(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        constant = a.flatten().unique().numel() == 1 or "lambdas" in name
        assert constant or not torch.equal(a, c), name
    tokens = torch.randint(200, (4, 17))
    assert abs(first(tokens[:, :-1], tokens[:, 1:]).item() - math.log(200)) < 0.01


def test_rotary_table_is_the_formula_at_every_position_and_beyond_the_trained_length() -> None:
    model = tiny_model()
    for start, end in ((0, 5), (3, 24), (20, 30), (90, 110), (0, 2)):
        table, direct = model.rotary(start, end), rotary_at(torch.arange(start, end), 8, torch.float32)
        torch.testing.assert_close(table.cos, direct.cos)
        torch.testing.assert_close(table.sin, direct.sin)


def test_rotary_table_is_not_remade_for_every_position() -> None:
    model = tiny_model()
    tables = [model.rotary(end - 1, end).cos.untyped_storage().data_ptr() for end in range(1, 2000)]
    assert sum(a != b for a, b in zip(tables, tables[1:], strict=False)) < 10


def test_flops_count_what_is_multiplied() -> None:
    config = GPTConfig(depth=2, aspect_ratio=16, head_dim=8, max_seq_len=16, window_pattern="SL", vocab_size=100)
    D, T = 32, 16
    matmuls = 2 * 12 * D * D + 100 * D + 24 + 4 * 12  # layers, head, smear gate, one value gate of four heads
    visible = (1 + 2 + 3 + 4 * 13) / T + (T + 1) / 2  # a window of 4, then the full context
    assert GPT(config).flops_per_token() == pytest.approx(6 * matmuls + 12 * D * visible)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0},
        {"depth": 10**12},
        {"head_dim": 7},
        {"kv_heads": 5},
        {"kv_heads": -1},
        {"window_pattern": "X"},
        {"window_pattern": ""},
        {"vocab_size": 0},
    ],
)
def test_config_refuses_what_cannot_be(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GPTConfig(**wrong)


def test_width_and_windows_follow_from_depth() -> None:
    config = GPTConfig(depth=5, aspect_ratio=60, head_dim=128, max_seq_len=1000, window_pattern="sssl")
    assert (config.width, config.heads, config.key_heads) == (384, 3, 3)
    assert config.windows == [250, 250, 250, 0, 0]
    with pytest.raises(ValueError, match="window_pattern"):
        _ = GPTConfig().windows


@pytest.mark.parametrize("kv_heads", [0, 1, 2])
def test_scaling_parameters_are_those_of_the_layers_and_the_head(kv_heads: int) -> None:
    model = GPT(GPTConfig(depth=4, aspect_ratio=16, head_dim=16, kv_heads=kv_heads, vocab_size=70, window_pattern="L"))
    counted = sum(p.numel() for p in model.blocks.parameters()) + model.lm_head.weight.numel()
    assert model.config.scaling_parameters == counted


def test_scaling_parameters_at_depth_12_are_the_published_ones() -> None:
    assert round(GPTConfig(depth=12, vocab_size=32768).scaling_parameters / 1e6, 1) == 110.1
