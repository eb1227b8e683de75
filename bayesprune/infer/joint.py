"""The model as one joint density over a data set, everything unknown in it a sample site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.func import functional_call
from torch.nn.functional import softplus

from bayesprune.data.inputs import Inputs, as_inputs
from bayesprune.errors import ConfigError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer.estimators import MAX_ENUMERATED
from bayesprune.infer.model import GatedModel
from bayesprune.layers import eval_mode, plain_parameters


class JointGates(TorchDistribution):
    """ξ_s ~ Bernoulli(π_s), event shape ``(S,)``: all 2^S values are one enumeration, so that Pyro can sum over them.

    Args:
        logits: Log odds, shape ``(S,)``.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.boolean, 1)
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None):
        self.logits = logits
        super().__init__(torch.Size(), logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> JointGates:
        """The distribution itself: one draw is for the whole data set.

        Raises:
            NotImplementedError: for a non-empty ``batch_shape``.
        """
        if torch.Size(batch_shape) != torch.Size():
            raise NotImplementedError("JointGates has no batch dimensions; do not put the gates inside a plate")
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Gate values, shape ``sample_shape + (S,)``, 0 or 1."""
        return torch.bernoulli(self.logits.detach().sigmoid().expand(*sample_shape, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_s log Bernoulli(ξ_s | π_s), nats."""
        return -(softplus(-self.logits) * value + softplus(self.logits) * (1 - value)).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All gate vectors, shape ``(2^S, S)``.

        Raises:
            ConfigError: for more than 16 gates.
        """
        count = len(self.logits)
        if count > MAX_ENUMERATED:
            raise ConfigError(
                f"joint: to sum over all gates takes 2^S passes, at most {MAX_ENUMERATED} gates, and the network has "
                f"{count}; give 'gates' a value with poutine.condition, or sample them"
            )
        return torch.cartesian_prod(*[self.logits.new_tensor([0.0, 1.0])] * count).view(-1, count)


class Stacked(TorchDistribution):
    """Laws of the targets of N examples for several networks, batch shape ``(..., N)``, from one of all in a row.

    Args:
        base: Batch shape ``(networks · N,)``.
        batch_shape: ``(..., N)``.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, base: TorchDistribution, batch_shape: torch.Size):
        self.base = base
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of ``base``."""
        return self.base.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probabilities of targets that broadcast to the batch shape."""
        return self.base.log_prob(
            value.expand(self._batch_shape + self._event_shape).flatten(0, -1 - len(self._event_shape))
        ).view(self._batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Targets, shape ``sample_shape + (..., N) + event_shape``."""
        return self.base.sample(sample_shape).view(*sample_shape, *self._batch_shape, *self._event_shape)


class Joint:
    """p(ξ) p(w) Π_i p(y_i | x_i, ξ, w), as a Pyro model.

    Args:
        net: The model.

    Raises:
        ConfigError: for weights without a proper prior.
    """

    def __init__(self, net: GatedModel):
        self.net, self.likelihood, self.posterior = net, net.likelihood, net.weights_posterior
        self.weights = plain_parameters(net.net)
        self.names = {id(p): name for name, p in self.weights.items()}
        scales = {name: torch.tensor(net.weight_precision).rsqrt() for name in net.point_weights()}
        pairs = zip(self.posterior.means(), self.posterior.prior_scales(), strict=True)
        scales |= {self.names[id(mean)]: scale for mean, scale in pairs}
        improper = next((name for name, scale in scales.items() if not bool(torch.isfinite(scale))), None)
        if improper is not None:
            raise ConfigError(
                f"joint: weight_precision=0 leaves {improper!r} without a proper prior, and there is no joint density; "
                "build the BayesianNet with weight_precision > 0"
            )
        self.scale = torch.cat([scales[name].to(p).expand(p.numel()) for name, p in self.weights.items()])

    def __call__(self, x: Inputs, y: Tensor | None) -> Tensor:
        """Sample the sites ``gates``, ``weights`` and ``obs``; returns the network's outputs."""
        xi = pyro.sample("gates", JointGates(self.net.prior().log_odds))
        values = pyro.sample("weights", dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1))
        by_name = split_weights(self.weights, values)
        with misfits_named(self.net.net, x, "joint"):
            outputs = torch.stack([self._outputs(x, row, by_name) for row in xi.view(-1, xi.shape[-1])])
        if y is not None:
            self.likelihood.check(outputs[0], y)
        count = outputs.shape[1]
        law = self.likelihood.distribution(outputs.flatten(0, 1))
        if xi.dim() > 1:  # Pyro enumerates
            law = Stacked(law, torch.Size((*xi.shape[:-2], count)))
        with pyro.plate("data", count, dim=-1):
            pyro.sample("obs", law, obs=None if y is None else self.likelihood.observed(y))
        return outputs[0] if xi.dim() == 1 else outputs

    def _outputs(self, x: Inputs, xi: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the network with these gates and weights, in eval mode."""
        point = dict(values)
        normal = [point.pop(self.names[id(mean)]).flatten() for mean in self.posterior.means()]
        with eval_mode(self.net), self.posterior.drawn(torch.cat([self.scale.new_zeros(0), *normal])):
            return functional_call(self.net, {f"net.{name}": value for name, value in point.items()}, (x, xi))


def sample(net: GatedModel, x: Any, y: Tensor | None) -> Tensor:
    """Sample from the joint density, see `BayesianNet.joint`.

    Args:
        net: Whose network, likelihood and priors they are.
        x: Inputs of the data set, shape ``(N, ...)``.
        y: Targets, first dimension N; ``None`` to sample them.
    """
    return Joint(net)(as_inputs(x), y)


def split_weights(weights: Mapping[str, Tensor], values: Tensor) -> dict[str, Tensor]:
    """Cut values of the site ``weights``, shape ``(..., D)``, into one tensor for each of the ``weights``, by name.

    Args:
        weights: By name, tensors of the shapes to cut into.
        values: What to cut.
    """
    parts = values.split([p.numel() for p in weights.values()], dim=-1)
    return {
        name: part.reshape(*part.shape[:-1], *p.shape) for (name, p), part in zip(weights.items(), parts, strict=True)
    }
