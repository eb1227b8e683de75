"""Real targets with known noise."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.checked import real
from bayesprune.infer.likelihoods.base import Likelihood, check_same_shape
from bayesprune.infer.prediction import RealPrediction, per_example
from bayesprune.layers import moments


class Gaussian(Likelihood):
    """Real targets with known noise; outputs are means, shape ``(B,)`` or ``(B, D)``, and targets have the same shape.

    Args:
        scale: Standard deviation of the noise.

    Examples:
        >>> Gaussian(2.0).nll(torch.zeros(1, 1), torch.full((1, 1), 2.0))  # 1/2 + log(2 sqrt(2 pi))
        tensor([2.1121])
    """

    name = "gaussian"

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = real("gaussian likelihood: the noise scale", scale, 0)

    @property
    def noise_scale(self) -> Tensor | float:
        """The standard deviation of the noise, one number or one an entry of a target."""
        return self.scale

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Normal(outputs, noise_scale), independent over the dimensions of a target."""
        return dist.Normal(outputs, self.noise_scale).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """½((y − outputs)/scale)² + log(scale √(2π)), summed over the dimensions of a target."""
        per_entry = 0.5 * ((y - outputs) / self.scale).square() + math.log(self.scale * math.sqrt(2 * math.pi))
        return per_example(per_entry)

    def mean(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs

    def summarize(self, outputs: Tensor) -> RealPrediction:
        """With the scale of the noise."""
        samples = self.means(outputs)
        scale = torch.as_tensor(self.noise_scale, dtype=samples.dtype, device=samples.device)
        return RealPrediction(samples.mean(0), samples, scale)

    def take_units(self, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the targets; noise that is known is known in their units.

        Args:
            y: Targets, first dimension N.
            weights: How much each of them counts; ``None`` for all alike.
        """
        return moments(y, weights)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must have the outputs' shape (no silent broadcasting)."""
        super().check(outputs, y)
        check_same_shape("gaussian", outputs, y)
