"""An optimiser is taken or refused for what it does to weights, not for its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import optim

from bayesprune.errors import ConfigError
from bayesprune.optim.trial import check_optimizer

CPU = torch.device("cpu")


class Decoupled(optim.SGD):
    """Momentum, and weights that shrink besides, in a class of a user's own."""

    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, lr, momentum=0.9)
        self.shrinkage = weight_decay

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * self.shrinkage)
        return super().step(closure)


class Trusting(optim.SGD):
    """Steps as long as the weights are (LARS): no entry moves by itself."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(p.norm() / p.grad.norm())
        return super().step(closure)


def deaf(params, lr: float, weight_decay: float) -> optim.Optimizer:
    return optim.SGD(params, lr=lr)


SOUND = {
    "Adam": optim.Adam,
    "amsgrad": partial(optim.Adam, amsgrad=True, fused=False),
    "SGD": optim.SGD,
    "Nesterov": partial(optim.SGD, momentum=0.9, nesterov=True),
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": partial(optim.RMSprop, centered=True, momentum=0.5),
    "Adagrad": optim.Adagrad,
    "Adamax": optim.Adamax,
    "overruled": lambda params, lr, weight_decay: optim.SGD(params, lr=1e-6, momentum=0.9, weight_decay=weight_decay),
}


@pytest.mark.parametrize("build", SOUND.values(), ids=SOUND)
def test_optimisers_that_keep_both_laws_are_taken(build: Callable[..., optim.Optimizer]) -> None:
    before = torch.get_rng_state()
    check_optimizer(build, [0, 1, 2, 4], CPU, decays=True, shrinks=True)
    assert torch.equal(torch.get_rng_state(), before)


DECOUPLED = {
    "AdamW": optim.AdamW,
    "Adam": partial(optim.Adam, decoupled_weight_decay=True),
    "NAdam": partial(optim.NAdam, decoupled_weight_decay=True),
    "RAdam": partial(optim.RAdam, decoupled_weight_decay=True),
    "Adafactor": optim.Adafactor,
    "Decoupled": Decoupled,
    "deaf": deaf,
}


@pytest.mark.parametrize(("name", "build"), DECOUPLED.items(), ids=DECOUPLED)
def test_decay_beside_the_gradient_is_refused(name: str, build: Callable[..., optim.Optimizer]) -> None:
    if name == "Adam" and "decoupled_weight_decay" not in inspect.signature(optim.Adam).parameters:
        pytest.skip("Adam has no such option yet")
    with pytest.raises(ConfigError, match=rf"^fit: Settings.optimizer {name} decouples weight decay from the gradient"):
        check_optimizer(build, [1, 2], CPU, decays=True, shrinks=False)
    if name != "Adafactor":  # where nothing decays there is nothing to decouple
        check_optimizer(build, [1, 2], CPU, decays=False, shrinks=True)


@pytest.mark.parametrize(("name", "build", "dim"), [("Adafactor", optim.Adafactor, 2), ("Trusting", Trusting, 1)])
def test_state_that_cannot_follow_a_cut_is_refused(name: str, build: Callable[..., optim.Optimizer], dim: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} does not treat each entry of a weight by itself.*prune=False"):
        check_optimizer(build, [dim], CPU, decays=False, shrinks=True)
    check_optimizer(build, [dim], CPU, decays=False, shrinks=False)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Rprop", "Muon"])
def test_an_optimiser_that_is_called_in_another_way_is_refused(name: str) -> None:
    if not hasattr(optim, name):
        pytest.skip(f"torch {torch.__version__} has no {name}")
    with pytest.raises(
        ConfigError, match=rf"{name} failed in a trial on a weight of shape \(4,\) \(.*\); it is"
    ) as caught:
        check_optimizer(getattr(optim, name), [1, 2], CPU, decays=True, shrinks=True)
    assert "\n" not in str(caught.value)
