"""The objective, written once: the negative ELBO of a `BayesianNet` is a sum of terms, in nats per example.

    E_ξ[C(ξ, M)] + λ/(2N) ‖M‖² + Σ_w Θ_w KL_w / N − log p(φ) / N + Σ_s θ_s log γ_s / N + Σ_s d(θ_s) / N

(Guenter & Sideris 2024, eq. 12 f.) The first term, the mean negative log-likelihood C of a batch under gates ξ ~
Bern(θ), depends on data; estimators give its value and gradient. Every other one is a `Term`: its ``value`` can be
differentiated in all that it depends on, which is how `GateELBO` uses it. A step of `fit` takes the derivative by
whatever costs least, as each term says; tests hold the one against the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from bayesprune.distributions.gate_prior import EDGE
from bayesprune.infer.model import GatedModel


class Term(ABC):
    """A summand of the objective that does not depend on data.

    Examples:
        >>> from torch import nn
        >>> from bayesprune import BayesianNet, layers
        >>> from bayesprune.distributions import FlatteningPrior
        >>> net = nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> bnn = BayesianNet(net, "gaussian", num_data=100, prior=FlatteningPrior(4.0))
        >>> bool(torch.isclose(Price().value(bnn), 4.0 * bnn.theta.sum() / 100))
        True
    """

    @abstractmethod
    def value(self, net: GatedModel) -> Tensor:
        """The term, nats per example, a scalar that can be differentiated in θ and all parameters.

        Args:
            net: The model.
        """

    def add_gradients(self, net: GatedModel) -> None:  # noqa: B027
        """Before a step of the weights: add to their gradients what no other mechanism brings; by default nothing.

        Args:
            net: The model.
        """

    def constant(self, net: GatedModel) -> bool:
        """Whether the term is the same whatever is learned; by default it is not.

        Args:
            net: The model.
        """
        return False


class Decay(Term):
    """λ/(2N) ‖M‖² of the point weights M, their negative log prior density up to a constant.

    In a step it is the weight decay λ/N of their parameter group.
    """

    def value(self, net: GatedModel) -> Tensor:
        """See above; summed in float32 at least."""
        total = torch.zeros((), device=net.theta.device)
        for p in net.point_weights().values():
            total = total + p.to(torch.promote_types(p.dtype, torch.float32)).square().sum()
        return total * (net.weight_precision / 2) / net.num_data


class WeightDivergence(Term):
    """Σ_w Θ_w KL(Normal(μ, σ²) ‖ Normal(0, σ0²)) / N of the Normal weights.

    In a step its derivative in μ and log σ is added to their gradients, and that in θ is the part D_s/N of the price
    that estimators take; both with Θ and σ0 as of the last `refresh`.
    """

    def value(self, net: GatedModel) -> Tensor:
        """See above."""
        return net.weights_posterior.divergence(net.by_gate(net.theta)) / net.num_data

    def add_gradients(self, net: GatedModel) -> None:
        """In closed form."""
        net.weights_posterior.add_gradients()


class LikelihoodPrior(Term):
    """−log p(φ) / N of the likelihood's own parameters φ, such as a noise scale. In a step by a backward of its own."""

    def value(self, net: GatedModel) -> Tensor:
        """See above."""
        return torch.as_tensor(net.likelihood.penalty()) / net.num_data

    def add_gradients(self, net: GatedModel) -> None:
        """By autograd; nothing for a likelihood without parameters."""
        penalty = net.likelihood.penalty()
        if isinstance(penalty, Tensor) and penalty.requires_grad:
            (penalty / net.num_data).backward()  # type: ignore[no-untyped-call]


class Price(Term):
    """Σ_s θ_s log γ_s / N, what the gates cost.

    In a step the estimator takes it along, as part of `GatedModel.price`.
    """

    def value(self, net: GatedModel) -> Tensor:
        """See above."""
        return (net.log_gamma * net.theta).sum() / net.num_data


class GateDivergence(Term):
    """Σ_s d(θ_s) / N, what the prior of the gates adds besides their price, see `GatePrior.divergence`.

    −H(θ_s) − log(1 − λ_s) under a fixed prior, whose `slope` is added to the gradient of θ in a step of it. A constant
    under the flattening prior.
    """

    def value(self, net: GatedModel) -> Tensor:
        """See above, with the slope of the entropy at 0 and 1 that at 1e-6 and 1 − 1e-6."""
        theta = net.theta + (1 - 2 * net.theta) * EDGE
        return net.prior().divergence(theta).sum() / net.num_data

    def constant(self, net: GatedModel) -> bool:
        """Under a prior that decides."""
        return net.prior_type.decides


WEIGHT_TERMS: tuple[Term, ...] = (Decay(), WeightDivergence(), LikelihoodPrior())
"""Those of weights and likelihood."""
TERMS: tuple[Term, ...] = (*WEIGHT_TERMS, Price(), GateDivergence())
"""All that do not depend on data."""


def total(net: GatedModel, terms: Iterable[Term] = TERMS) -> Tensor:
    """The sum of some terms, nats per example, to be differentiated.

    Args:
        net: The model.
        terms: Which terms.
    """
    return sum((term.value(net) for term in terms), torch.zeros((), device=net.theta.device))


@torch.no_grad()
def penalty(net: GatedModel) -> float:
    """What training records as its loss besides the data term: all terms but constants; waits for the device.

    Args:
        net: The model.
    """
    return float(total(net, (term for term in TERMS if not term.constant(net))))


def add_gradients(net: GatedModel) -> None:
    """Before a step of the weights: add what the terms ask of them beyond the data term and the optimiser's decay.

    Args:
        net: The model.
    """
    for term in TERMS:
        term.add_gradients(net)
