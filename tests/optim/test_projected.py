"""Projected SGD: steps by hand, and the ends of [0, 1] reached exactly."""

import pyro
import pytest
import torch

from bayesprune.errors import ConfigError
from bayesprune.optim import ProjectedSGD
from bayesprune.optim.projected import ProjectedGateSGD


def step(theta: list[float], gradient: list[float], lr: float | torch.Tensor) -> list[float]:
    parameter = torch.tensor(theta, requires_grad=True)
    parameter.grad = torch.tensor(gradient)
    ProjectedGateSGD([parameter], lr=lr).step()
    return parameter.tolist()


def test_a_step_by_hand() -> None:
    assert step([0.5, 0.5, 0.25], [1.0, -0.5, 0.0], 0.25) == [0.25, 0.625, 0.25]


def test_the_ends_are_reached_exactly_and_left_again() -> None:
    assert step([0.1, 0.9, 0.0, 1.0], [1.0, -1.0, 1.0, -1.0], 0.3) == [0.0, 1.0, 0.0, 1.0]
    assert step([0.0, 1.0], [-1.0, 1.0], 0.25) == [0.25, 0.75]


def test_one_step_size_a_gate() -> None:
    assert step([0.5, 0.5], [1.0, 1.0], torch.tensor([0.25, 0.5])) == [0.25, 0.0]


def test_no_gradient_no_step_and_a_closure_is_called_with_gradients() -> None:
    theta = torch.tensor([0.5], requires_grad=True)
    optimizer = ProjectedGateSGD([theta], lr=0.25)
    optimizer.step()
    assert theta.item() == 0.5

    def closure() -> float:
        optimizer.zero_grad()
        loss = (2 * theta).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 1.0 and theta.item() == 0.0


def test_a_linear_loss_ends_at_its_vertex_and_rests_there() -> None:
    theta = torch.full((4,), 0.5, requires_grad=True)
    slope = torch.tensor([1.0, -1.0, 0.2, -0.2])
    optimizer = ProjectedGateSGD([theta], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (slope * theta).sum().backward()
        optimizer.step()
    assert theta.tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf")])
def test_a_step_size_that_cannot_be_is_refused(lr: float) -> None:
    with pytest.raises(ConfigError, match="lr must be finite and not negative"):
        ProjectedGateSGD([torch.zeros(1)], lr=lr)
    with pytest.raises(ConfigError, match="lr must be finite and not negative"):
        ProjectedSGD({"lr": lr})


def test_arguments_it_does_not_know_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="momentum"):
        ProjectedSGD({"lr": 0.1, "momentum": 0.9})


@pytest.mark.parametrize(
    ("arguments", "weight"),
    [({}, 3.0 - 1e-3), ({"weights": torch.optim.SGD, "weights_args": {"lr": 0.5}}, 3.0 - 0.5 * 2.0)],
)
def test_theta_by_projected_sgd_and_all_else_by_the_optimiser_given(arguments: dict, weight: float) -> None:
    theta = pyro.param("theta", torch.tensor([0.9, 0.2, 0.5]))
    other = pyro.param("net$$$weight", torch.tensor([3.0]))
    theta.grad, other.grad = torch.tensor([-1.0, 1.0, 0.1]), torch.tensor([2.0])
    ProjectedSGD({"lr": 0.5}, **arguments)([theta, other])
    torch.testing.assert_close(theta.detach(), torch.tensor([1.0, 0.0, 0.45]))
    assert other.item() == pytest.approx(weight, rel=1e-6)
