"""Counts whose variance is their mean."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.infer.likelihoods.counts import CountPrediction, Counts
from bayesprune.infer.prediction import per_example


class Poisson(Counts):
    """Counts 0, 1, 2, …; outputs are log rates, shape ``(B,)`` or ``(B, D)``, and targets have the same shape.

    Examples:
        >>> Poisson().nll(torch.zeros(1, 1), torch.full((1, 1), 2.0))  # 1 + log 2
        tensor([1.6931])
    """

    name = "poisson"

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Poisson(exp(outputs)), independent over the dimensions of a target."""
        return dist.Poisson(outputs.exp()).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """exp(outputs) − y · outputs + log y!, summed over the dimensions of a target."""
        dtype = torch.promote_types(outputs.dtype, torch.float32)  # shorter formats do not hold every count
        outputs, y = outputs.to(dtype), y.to(dtype)
        return per_example(outputs.exp() - y * outputs + torch.lgamma(y + 1))

    def summarize(self, outputs: Tensor) -> CountPrediction:
        """With intervals of counts."""
        samples = self.means(outputs)
        return CountPrediction(samples.mean(0), samples)
