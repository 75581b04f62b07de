import pytest
import torch

from nanochat.model.gpt import GPT, GPTConfig
from nanochat.train.objective import NextTokenObjective, Objective
from nanochat.train.optim import OptimFlags, check_coverage
from nanochat.train.schedule import TrainPlan


def build() -> NextTokenObjective:
    config = GPTConfig(depth=2, aspect_ratio=16, head_dim=8, max_seq_len=12, window_pattern="SL", vocab_size=31)
    return NextTokenObjective(GPT(config).init_weights(torch.Generator().manual_seed(0)))


def test_the_loss_is_the_mean_over_the_targets():
    objective = build()
    with torch.no_grad():  # a fresh head predicts all tokens alike
        objective.model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    rows = torch.randint(31, (3, 13), generator=torch.Generator().manual_seed(2))
    tokens, targets = rows[:, :-1], rows[:, 1:].clone()
    targets[0, 5:] = -1
    result = objective(tokens, targets, progress=0.5)
    each = objective.model(tokens, targets, "none")
    assert each.shape == targets.shape and not each[0, 5:].any()
    torch.testing.assert_close(result.loss, each.sum() / (targets != -1).sum())
    assert result.loss.ndim == 0 and result.loss.requires_grad and result.metrics == {}
    assert torch.equal(objective(tokens, targets, progress=0.0).loss, result.loss)


def test_weights_multiply_the_losses_of_rows():
    objective = build()
    with torch.no_grad():
        objective.model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    rows = torch.randint(31, (3, 13), generator=torch.Generator().manual_seed(2))
    tokens, targets, weights = rows[:, :-1], rows[:, 1:].clone(), torch.tensor([2.0, -1.0, 0.0])
    targets[0, 5:] = -1
    each = objective.model(tokens, targets, "none")
    result = objective(tokens, targets, 0.5, weights)
    torch.testing.assert_close(result.loss, (each * weights[:, None]).sum() / (targets != -1).sum())
    torch.testing.assert_close(objective(tokens, targets, 0.5, torch.ones(3)).loss, objective(tokens, targets, 0.5).loss)


def test_every_parameter_is_optimized_under_its_name_in_the_checkpoint():
    objective = build()
    groups = objective.parameter_groups(OptimFlags(), TrainPlan(512, 10, 1.0, 1.0))
    check_coverage(objective, groups)
    assert {name for group in groups for name, _ in group.named} == {name for name, _ in objective.named_parameters()}
    assert {name for name, _ in objective.named_parameters()} <= objective.state_dict().keys()


def test_an_objective_has_to_say_what_it_is():
    with pytest.raises(TypeError, match="Objective defines no forward"):
        Objective()(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64), 0.0)


def test_an_objective_may_be_timed_and_need_not():
    objective = build()
    with objective.spans("anything"):
        pass
    assert objective.figures({"forward": 1.0}, 4) == {} and objective.flops_per_token() == objective.model.flops_per_token()
