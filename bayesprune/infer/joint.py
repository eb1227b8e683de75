"""The model as one joint density over a data set, everything unknown in it a sample site."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError
from bayesprune.infer.gated import GatedNet
from bayesprune.infer.likelihoods import Likelihood
from bayesprune.infer.slabs import NormalSlabs
from bayesprune.layers import eval_mode


class Joint:
    """p(ξ) p(w) Π_i p(y_i | x_i, ξ, w), as a Pyro model.

    Args:
        net: The gated network.
        likelihood: p(y | outputs).
        prior: Of the gates, batch shape ``(S,)``.
        weights: By name in ``net.net``, the weights that are drawn.
        scales: By name, the standard deviation of their prior.
        slabs: Those that are Normal weights, if any are.

    Raises:
        ConfigError: for weights without a proper prior.
    """

    def __init__(
        self,
        net: GatedNet,
        likelihood: Likelihood,
        prior: FlatteningPrior | FixedInclusion,
        weights: Mapping[str, nn.Parameter],
        scales: Mapping[str, Tensor],
        slabs: NormalSlabs | None,
    ):
        self.net, self.likelihood, self.prior, self.weights, self.slabs = net, likelihood, prior, weights, slabs
        improper = next((name for name, scale in scales.items() if not bool(torch.isfinite(scale))), None)
        if improper is not None:
            raise ConfigError(
                f"joint: weight_precision=0 leaves {improper!r} without a proper prior, and there is no joint density; "
                "build the BayesianNet with weight_precision > 0"
            )
        self.scale = torch.cat([scales[name].to(p).expand(p.numel()) for name, p in weights.items()])

    def __call__(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Sample the sites ``gates``, ``weights`` and ``obs``; returns the network's outputs."""
        xi = pyro.sample("gates", dist.Bernoulli(logits=self._logits()).to_event(1))
        values = pyro.sample("weights", dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1))
        outputs = self._outputs(x, xi, split_weights(self.weights, values))
        with pyro.plate("data", len(outputs), dim=-1):
            observed = None if y is None else self.likelihood.observed(y)
            pyro.sample("obs", self.likelihood.distribution(outputs), obs=observed)
        return outputs

    def _logits(self) -> Tensor:
        """Log odds of a gate being on, π integrated out."""
        if isinstance(self.prior, FixedInclusion):
            return -self.prior.log_gamma
        return torch.logit(self.prior.mean)

    def _outputs(self, x: Tensor, xi: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the network with these gates and weights, in eval mode."""
        point = dict(values)
        with eval_mode(self.net):
            if self.slabs is None:
                return functional_call(self.net, _within_net(point), (x, xi))
            names = {id(p): name for name, p in self.weights.items()}
            normal = torch.cat([point.pop(names[id(mean)]).flatten() for mean in self.slabs.means()])
            with self.slabs.drawn(normal):
                return functional_call(self.net, _within_net(point), (x, xi))


def split_weights(weights: Mapping[str, Tensor], values: Tensor) -> dict[str, Tensor]:
    """Cut values of the site ``weights``, shape ``(..., D)``, into one tensor for each of the ``weights``, by name."""
    parts = values.split([p.numel() for p in weights.values()], dim=-1)
    return {
        name: part.reshape(*part.shape[:-1], *p.shape) for (name, p), part in zip(weights.items(), parts, strict=True)
    }


def _within_net(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"net.{name}": value for name, value in values.items()}
