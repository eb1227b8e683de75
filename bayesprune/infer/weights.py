"""The joint distribution of all Normal weights of a network, as one site."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from bayesprune.distributions import normal_kl


class WeightDraws(TorchDistribution):
    """w ~ Normal(mean, scale), each weight counted with the probability that its gates are on.

    Where a gate is off, a weight behind it has the same law in model and guide, so that its two log densities cancel.
    Integrated over the gates there remains Θ_w (log p(w) − log q(w)): ``log_prob`` is Σ_w Θ_w log Normal(w), in model
    and guide alike, and their mean difference Σ_w Θ_w KL.

    Args:
        mean: Shape ``(D,)``.
        scale: Standard deviations, shape ``(D,)``.
        presence: Θ, shape ``(D,)``.
    """

    arg_constraints: ClassVar = {"scale": constraints.positive}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, scale: Tensor, presence: Tensor, validate_args: bool | None = None):
        self.loc, self.scale, self.presence = mean, scale, presence
        super().__init__(torch.Size(), mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WeightDraws:
        """The distribution itself: it has no batch dimensions.

        Raises:
            NotImplementedError: for a non-empty ``batch_shape``.
        """
        if torch.Size(batch_shape) != torch.Size():
            raise NotImplementedError("WeightDraws has no batch dimensions; do not put the weights inside a plate")
        return self

    @property
    def mean(self) -> Tensor:
        """Shape ``(D,)``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Shape ``(D,)``."""
        return self.scale.square()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Weights where their gates are on, shape ``sample_shape + (D,)``."""
        noise = torch.randn(*sample_shape, len(self.loc), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_w Θ_w log Normal(w; mean, scale), nats."""
        entries = -((value - self.loc) / self.scale).square() / 2 - self.scale.log() - math.log(2 * math.pi) / 2
        return (self.presence * entries).sum(-1)


@register_kl(WeightDraws, WeightDraws)
def kl_weight_draws(p: WeightDraws, q: WeightDraws) -> Tensor:
    """Σ_w Θ_w KL(Normal ‖ Normal), nats; Θ is that of ``p``.

    Args:
        p: The posterior.
        q: The prior.
    """
    return (p.presence * normal_kl(p.loc - q.loc, p.scale.log(), q.scale)).sum(-1)
