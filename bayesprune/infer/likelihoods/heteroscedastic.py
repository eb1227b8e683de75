"""Regression with noise that depends on the inputs."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.errors import DataError
from bayesprune.infer.likelihoods.base import Likelihood
from bayesprune.infer.prediction import RealPrediction, per_example
from bayesprune.layers import moments

REACH = 6.0
"""How far, in nats, a noise scale gets from its unit: by a factor of e⁶ = 403 either way, at which it saturates."""


class Heteroscedastic(Likelihood):
    """Real targets whose noise depends on the inputs: the network tells mean and scale, from two heads.

    Outputs have shape ``(B, 2D)``, targets ``(B, D)``. The first D outputs are means, the others r give the standard
    deviations e^(6 tanh(r/6)), which is e^r while r is small: an example that is fitted exactly cannot drive its noise
    to 0 (Nix & Weigend 1994, with bounds).

    Attributes:
        unit: What scales are measured in: 1, or the targets' standard deviation, see `take_units`.

    Examples:
        >>> outputs = torch.tensor([[0.0, 0.0]])  # Normal(0, 1)
        >>> Heteroscedastic().nll(outputs, torch.zeros(1, 1))  # log sqrt(2 pi)
        tensor([0.9189])
    """

    name = "heteroscedastic"
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    def heads(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, each of shape ``(..., D)``."""
        mean, raw = outputs.chunk(2, -1)
        return mean, REACH * (raw / REACH).tanh() + self.unit.log()

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Normal(mean, scale), independent over the entries of a target."""
        mean, log_scale = self.heads(outputs)
        return dist.Normal(mean, log_scale.exp()).to_event(1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """½((y − mean)/scale)² + log(scale √(2π)), summed over the entries of a target."""
        mean, log_scale = self.heads(outputs)
        standardised = (y - mean) * (-log_scale).exp()
        return per_example(0.5 * standardised.square() + log_scale + 0.5 * math.log(2 * math.pi))

    def mean(self, outputs: Tensor) -> Tensor:
        """The means, shape ``(B, D)``."""
        return self.heads(outputs)[0]

    def summarize(self, outputs: Tensor) -> RealPrediction:
        """With the noise of each example under each sample."""
        mean, log_scale = self.heads(outputs)
        return RealPrediction(mean.mean(0), mean, log_scale.exp())

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """Half as many entries as outputs."""
        return torch.Size((*outputs.shape[1:-1], outputs.shape[-1] // 2))

    def take_units(self, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Those of the means; scales are measured in the targets' standard deviation, and their outputs stay.

        Args:
            y: Targets, first dimension N.
            weights: How much each of them counts; ``None`` for all alike.
        """
        location, scale = moments(y, weights)
        self.unit = scale.to(self.unit)
        return torch.cat((location, torch.zeros_like(location))), torch.cat((scale, torch.ones_like(scale)))

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """There must be two outputs for each entry of a target."""
        super().check(outputs, y)
        if outputs.dim() != 2 or y.dim() != 2 or outputs.shape[1] != 2 * y.shape[1]:
            raise DataError(
                "heteroscedastic likelihood: expected targets of shape (batch, D) and outputs of shape (batch, 2 D), "
                f"means and then log scales, got {tuple(y.shape)} and {tuple(outputs.shape)}"
            )
