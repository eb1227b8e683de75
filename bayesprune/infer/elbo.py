"""The negative ELBO with the hyper-prior eliminated in closed form, as a `pyro.infer.ELBO`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError
from bayesprune.infer.estimators import Estimator, get_estimator
from bayesprune.infer.evaluation import ReplayedObjective
from bayesprune.infer.net import BayesianNet
from bayesprune.infer.objective import TERMS, Price, total

REST = tuple(term for term in TERMS if not isinstance(term, Price))
"""The terms of the objective that the estimators do not bring."""


class GateELBO(ELBO):
    """Negative ELBO, nats per example, of a `BayesianNet`'s ``model`` and ``guide``.

    L(θ, M) = E_{ξ~Bern(θ)}[C(ξ, M)] + (1/N) Σ_s (θ_s log γ_s + const(γ_s)) + λ/(2N) ‖M‖² (Guenter & Sideris 2024,
    eq. 12 f.): the expectation and its gradient by the estimator, the rest in closed form. On the same gates it differs
    from Pyro's ``Trace_ELBO`` only by Σ_s (ξ_s − θ_s) log γ_s / N, whose mean is 0. With a fixed prior −H(θ_s) is added
    for every gate, with Normal weights Σ_w Θ_w KL(Normal(μ, σ²) ‖ Normal(0, σ0²)) / N takes the place of the last term,
    and the expectation is over one draw of the weights for the batch.

    Above log γ ≈ 87 the optimal π of a gate, about e^(−log γ), underflows to 0 in float32 and log π with it: the value
    of Pyro's own ``Trace_ELBO`` then loses its meaning. This loss, in closed form, keeps it.

    Args:
        estimator: A name (``auto``, ``second_order``, ``straight_through``, ``concrete``, ``paired``, ``disarm``,
            ``exact``) or a function of that signature.
        num_particles: How many gate draws to average.

    Raises:
        ConfigError: for an unknown estimator, fewer than one particle, or when used with a model that is not a
            `BayesianNet`'s.

    Examples:
        >>> from torch import nn
        >>> from pyro.infer import SVI
        >>> from bayesprune import layers, optim
        >>> net = nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> bnn = BayesianNet(net, "gaussian", num_data=8)
        >>> svi = SVI(bnn.model, bnn.guide, optim.ProjectedSGD({"lr": 0.1}), loss=GateELBO())
        >>> svi.step(torch.zeros(8, 2), torch.zeros(8, 1)) > 0
        True
    """

    @checked_arguments
    def __init__(self, estimator: str | Estimator = "auto", num_particles: int = 1):
        super().__init__(num_particles=whole("GateELBO: num_particles", num_particles))
        self.estimator = get_estimator(estimator)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar whose gradient is the estimate.

        Args:
            model: ``bnn.model``.
            guide: ``bnn.guide``.
            *args: What both are called with: inputs and targets.
            **kwargs: The same by name.
        """
        particles = [self._particle(model, guide, *args, **kwargs) for _ in range(self.num_particles)]
        return torch.stack(particles).mean()

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss as a number.

        Args:
            model: ``bnn.model``.
            guide: ``bnn.guide``.
            *args: What both are called with: inputs and targets.
            **kwargs: The same by name.
        """
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The loss as a number; its gradients are accumulated in the parameters.

        Args:
            model: ``bnn.model``.
            guide: ``bnn.guide``.
            *args: What both are called with: inputs and targets.
            **kwargs: The same by name.
        """
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss.detach())

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs), guide_trace

    def _particle(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        net = _owner(model)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        gates: Any = guide_trace.nodes["gates"]
        theta, scale = gates["fn"].probs, gates["scale"]
        objective = _TracedObjective(net, model, guide_trace, args, kwargs)
        data = self.estimator(objective, theta, gates["value"], net.log_gamma * scale)
        return data + total(net, REST) * (scale * net.num_data)


def _owner(model: Callable) -> BayesianNet:
    net = getattr(model, "__self__", None)
    if not isinstance(net, BayesianNet):
        raise ConfigError(
            f"GateELBO works on the model and guide of a BayesianNet, got {model!r}; pass bnn.model and bnn.guide, "
            "or use pyro.infer.Trace_ELBO for other models"
        )
    return net


class _TracedObjective(ReplayedObjective):
    """The likelihood of a batch read off traces of the Pyro model."""

    def __init__(self, net: BayesianNet, model: Callable, guide_trace: Trace, args: tuple, kwargs: dict):
        super().__init__(net, net.theta.device)
        self.model, self.guide_trace, self.args, self.kwargs = model, guide_trace, args, kwargs

    def losses(self, xi: Tensor, skip: bool) -> Tensor:
        conditioned = poutine.condition(poutine.replay(self.model, trace=self.guide_trace), data={"gates": xi})
        trace = poutine.trace(conditioned).get_trace(*self.args, **self.kwargs)
        observed: Any = trace.nodes["obs"]
        return -observed["fn"].log_prob(observed["value"]) * (observed["scale"] * len(observed["value"]))
