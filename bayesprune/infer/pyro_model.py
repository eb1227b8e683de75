"""A `BayesianNet` as a Pyro model and its guide, for stochastic variational inference."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from bayesprune.data.inputs import as_inputs
from bayesprune.errors import ConfigError
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.model import GatedModel
from bayesprune.infer.objective import Decay, LikelihoodPrior, total
from bayesprune.infer.targets import Targets, values_of, weights_of

FACTOR = (Decay(), LikelihoodPrior())
"""The terms of the objective that have no sample site; those of sites are differences of log densities."""


def model(net: GatedModel, x: Any, y: Targets | None = None) -> Tensor:
    """The model, see `BayesianNet.model`.

    Args:
        net: Whose network, likelihood and priors they are.
        x: Inputs, shape ``(B, ...)``.
        y: Targets, first dimension B, with or without weights; ``None`` to sample them.
    """
    x = as_inputs(x)
    pyro.module("net", net.net)
    if net.likelihood.state_dict():
        pyro.module("likelihood", net.likelihood)
    with poutine.scale(scale=1 / net.num_data):
        xi = pyro.sample("gates", GateDraws(net.prior().pyro_model(), net.rows(x), net.num_shared))
        pyro.factor("slab", -net.num_data * total(net, FACTOR))
        with net.weights_posterior.pyro_model(net.by_gate(net.theta)):
            outputs = net(x, xi)
        observed = None
        scale: float | Tensor = net.num_data / len(x)
        if y is not None:
            net.likelihood.check_shape(outputs, values_of(y))
            observed, weights = net.likelihood.observed(values_of(y)), weights_of(y)
            if weights is not None:  # Pyro takes no 0
                scale = scale * weights.clamp(min=torch.finfo(weights.dtype).tiny)
        with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=scale):
            pyro.sample("obs", net.likelihood.distribution(outputs), obs=observed)
    return outputs


def guide(net: GatedModel, x: Any) -> None:
    """Its guide, see `BayesianNet.guide`.

    Args:
        net: Whose network, likelihood and priors they are.
        x: Inputs, shape ``(B, ...)``.
    """
    x = as_inputs(x)
    theta = pyro.param("theta", net.theta)
    if theta is not net.theta:
        raise ConfigError(
            "guide: Pyro's parameter store holds 'theta' of another (or an earlier, larger) network; call "
            "pyro.clear_param_store() before training a new one"
        )
    with poutine.scale(scale=1 / net.num_data):
        net.prior().pyro_guide(theta)
        pyro.sample("gates", GateDraws(theta, net.rows(x), net.num_shared))
        net.weights_posterior.pyro_guide(net.by_gate(net.theta))
