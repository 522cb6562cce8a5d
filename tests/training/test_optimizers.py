"""LAMB against the paper's algorithm in float64; weight decay where it belongs."""

import numpy as np
import pytest
import torch

from ptmkernels.training import Lamb, create_optimizer, parameter_groups
from tests.training.runs import tiny_model


def lamb_by_hand(weight, gradients, lr, betas, eps, decay):
    """Algorithm 2 of You et al. 2020, line by line."""
    m, v = np.zeros_like(weight), np.zeros_like(weight)
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        ratio = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        update = ratio + decay * weight
        norms = np.linalg.norm(weight), np.linalg.norm(update)
        scale = norms[0] / norms[1] if decay and min(norms) > 0 else 1.0
        weight = weight - lr * scale * update
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("start", ["random", "zero"])
def test_lamb(decay, start):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(7, 13)) * (start == "random")
    gradients = rng.normal(size=(5, 7, 13))
    options = {"lr": 0.05, "betas": (0.9, 0.97), "eps": 1e-6}
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    optimizer = Lamb([parameter], weight_decay=decay, **options)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = lamb_by_hand(weight, gradients, decay=decay, **options)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)


def test_lamb_leaves_parameters_without_a_gradient():
    parameter = torch.nn.Parameter(torch.ones(3))
    loss = Lamb([parameter], lr=0.1).step(lambda: 7.0)
    assert loss == 7.0
    assert torch.equal(parameter, torch.ones(3))


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"eps": -1.0}, {"betas": (0.9, 1.0)}])
def test_lamb_refuses(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        Lamb([torch.nn.Parameter(torch.ones(1))], **options)


def test_biases_and_norms_are_not_decayed():
    model = tiny_model()
    decayed, free = parameter_groups(model, 0.01)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.01
    assert free["weight_decay"] == 0.0
    for parameter in free["params"]:
        assert names[parameter].endswith("bias") or "norm" in names[parameter]
    for parameter in decayed["params"]:
        assert names[parameter].endswith("weight")
        assert "norm" not in names[parameter]
    assert len(decayed["params"]) + len(free["params"]) == len(names)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor"])
def test_each_optimizer_lowers_a_loss(name):
    torch.manual_seed(0)
    model = torch.nn.Linear(9, 5)
    inputs, targets = torch.randn(31, 9), torch.randn(31, 5)
    optimizer = create_optimizer(name, model, learning_rate=0.02)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_an_unknown_optimizer():
    with pytest.raises(
        ValueError, match="optimizer is 'sgd'; expected one of adamw, lamb, adafactor"
    ):
        create_optimizer("sgd", tiny_model(), learning_rate=1.0)
