"""Binary targets."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.errors import DataError
from bayesprune.infer.likelihoods.base import Likelihood, check_same_shape, fraction_right
from bayesprune.infer.prediction import ClassPrediction, per_example


class Bernoulli(Likelihood):
    """Binary targets 0 or 1; outputs are logits, shape ``(B,)`` or ``(B, D)``, and targets have the same shape.

    Examples:
        >>> Bernoulli().nll(torch.zeros(1, 1), torch.ones(1, 1))  # log 2
        tensor([0.6931])
    """

    name = "bernoulli"

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Bernoulli(sigmoid(outputs)), independent over the dimensions of a target."""
        return dist.Bernoulli(logits=outputs).to_event(outputs.dim() - 1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Binary cross-entropy, summed over the dimensions of a target."""
        per_entry = F.binary_cross_entropy_with_logits(outputs, y.to(outputs.dtype), reduction="none")
        return per_example(per_entry)

    def observed(self, y: Tensor) -> Tensor:
        """Targets as floating-point numbers."""
        return y.to(torch.get_default_dtype()) if not y.is_floating_point() else y

    def mean(self, outputs: Tensor) -> Tensor:
        """Success probabilities."""
        return outputs.sigmoid()

    def summarize(self, outputs: Tensor) -> ClassPrediction:
        """With the log probabilities of 0 and 1."""
        samples = self.means(outputs)
        both = torch.stack((F.logsigmoid(-outputs), F.logsigmoid(outputs)), -1)
        return ClassPrediction(samples.mean(0), samples, both)

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Fraction of the entries of each target that are on the right side of probability ½."""
        return fraction_right((outputs > 0) == (y > 0.5))

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Zeros and ones."""
        return (y == 0) | (y == 1)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must be 0 or 1, in the outputs' shape."""
        super().check(outputs, y)
        check_same_shape("bernoulli", outputs, y)
        if not bool(self.possible(outputs, y).all()):
            raise DataError(
                "bernoulli likelihood: targets must be 0 or 1; for several classes use likelihood='categorical'"
            )
