"""Which optimisers and prices `fit` refuses before it trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bayesprune.distributions import FixedInclusion
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.pruning import CostPrice
from bayesprune.training import Budget, Settings, fit
from tests.training.problems import EXAMPLES, Batches, bayesian, examples, units

REST = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0}


def refused(net: BayesianNet, settings: Settings, message: str) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ConfigError, match=message) as caught:
        fit(net, Batches(*examples()), epochs=1, settings=settings)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (partial(torch.optim.NAdam, decoupled_weight_decay=True), "NAdam decouples weight decay"),
        (torch.optim.LBFGS, r"LBFGS failed in a trial .*weight_decay"),
        (lambda params, lr, weight_decay: torch.optim.SGD([torch.zeros(1)], lr), "1 parameters that are not the 1 it"),
    ],
)
def test_refused_optimisers(optimizer: Callable[..., torch.optim.Optimizer], message: str) -> None:
    refused(bayesian(units()), Settings(optimizer=optimizer), message)


def test_without_decay_or_removal_fewer_optimisers_are_refused() -> None:
    settings = Settings(optimizer=torch.optim.Adafactor, lr=0.1, schedule=REST)
    refused(bayesian(units(), weight_precision=0.0), settings, "each entry of a weight")
    net = bayesian(units(), weight_precision=0.0)
    history = fit(net, Batches(*examples()), epochs=2, prune=False, settings=settings)
    assert history.rows[1].nll < history.rows[0].nll
    settings = Settings(optimizer=torch.optim.AdamW, schedule=REST)
    fit(bayesian(units(), weight_precision=0.0), Batches(*examples()), epochs=1, settings=settings)


@pytest.mark.parametrize(
    ("settings", "name"), [(Settings(price=CostPrice(0.1)), "price"), (Settings(budget=Budget("macs", 0.5)), "budget")]
)
def test_a_fixed_prior_is_not_overwritten(settings: Settings, name: str) -> None:
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FixedInclusion(log_gamma=torch.tensor(4.6)))
    refused(net, settings, f"Settings.{name} would overwrite what the FixedInclusion prior says")
    fit(net, Batches(*examples()), epochs=1, settings=Settings(schedule=REST))
    assert torch.equal(net.log_gamma, torch.full((14,), 4.6))
