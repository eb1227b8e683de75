"""Classes in an order."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import DataError
from bayesprune.infer.likelihoods.base import Likelihood
from bayesprune.infer.prediction import ClassPrediction


class Ordinal(Likelihood):
    """Classes in an order, 0 < 1 < … < K − 1: grades, ratings, stages. The network gives one number an example.

    P(y ≤ k) = sigmoid(c_k − output), the proportional odds of McCullagh (1980). Outputs have shape ``(B, 1)``, targets
    are integers in [0, K), shape ``(B,)``. The cut points c_0 < … < c_{K−2} are learned: point estimates under the
    prior that makes all probabilities at output 0 equally likely, a flat Dirichlet law.

    Args:
        num_classes: K, at least 2.

    Attributes:
        first: c_0, a parameter.
        log_gaps: log(c_k − c_{k−1}), a parameter of shape ``(K − 2,)``.

    Raises:
        ConfigError: for fewer than two classes.

    Examples:
        >>> Ordinal(4).nll(torch.zeros(1, 1), torch.tensor([2])).detach()  # log 4
        tensor([1.3863])
    """

    @checked_arguments
    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = whole("ordinal likelihood: num_classes", num_classes, 2)
        equal = torch.logit(torch.arange(1, self.num_classes) / self.num_classes)
        self.first, self.log_gaps = nn.Parameter(equal[0].clone()), nn.Parameter(equal.diff().log())

    @property
    def cutpoints(self) -> Tensor:
        """c, in their order, shape ``(K − 1,)``."""
        return torch.cat((self.first[None], self.first + self.log_gaps.exp().cumsum(0)))

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Ordered logistic."""
        return dist.OrderedLogistic(outputs[:, 0], self.cutpoints)

    def log_probs(self, outputs: Tensor) -> Tensor:
        """Log probabilities of the classes, shape ``(..., K)``, for outputs of shape ``(..., 1)``.

        log(sigmoid(b) − sigmoid(a)) = log sigmoid(b) + log sigmoid(−a) + log(1 − e^(a − b)), which keeps small ones.
        """
        above = self.cutpoints - outputs
        upper, lower = F.pad(F.logsigmoid(above), (0, 1)), F.pad(F.logsigmoid(-above), (1, 0))
        between = F.pad(torch.log(-torch.expm1(-self.log_gaps.exp())), (1, 1))
        return upper + lower + between

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """−log probability of the class; with gradient in the cut points."""
        return -self.log_probs(outputs).gather(-1, y.long()[:, None])[:, 0]

    def mean(self, outputs: Tensor) -> Tensor:
        """Class probabilities, shape ``(B, K)``."""
        return self.log_probs(outputs).exp()

    def summarize(self, outputs: Tensor) -> ClassPrediction:
        """With the log probabilities of every class."""
        log_probs = self.log_probs(outputs)
        samples = log_probs.exp()
        return ClassPrediction(samples.mean(0), samples, log_probs)

    def observed(self, y: Tensor) -> Tensor:
        """Classes as integers."""
        return y.long()

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """One class an example."""
        return torch.Size()

    def penalty(self) -> Tensor:
        """Minus the prior log density of the parameters, nats for the whole data set.

        With a flat Dirichlet law of the probabilities at 0 the density of the cut points is (K − 1)! Π sigmoid'(c_k);
        Π (c_k − c_{k−1}) is the volume that log gaps take.
        """
        c = self.cutpoints
        slopes = F.logsigmoid(c) + F.logsigmoid(-c)
        return -(slopes.sum() + self.log_gaps.sum() + math.lgamma(self.num_classes))

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whether the most probable class is the target."""
        return (self.log_probs(outputs).argmax(-1) == y).float()

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whole numbers in [0, K)."""
        return (y >= 0) & (y < self.num_classes)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Targets must be integers in [0, K), one an example, and outputs one number an example."""
        super().check(outputs, y)
        if outputs.dim() != 2 or outputs.shape[1] != 1 or y.dim() != 1 or y.is_floating_point() or y.is_complex():
            raise DataError(
                "ordinal likelihood: expected outputs of shape (batch, 1) and integer targets of shape (batch,), got "
                f"{tuple(outputs.shape)} and {y.dtype} of shape {tuple(y.shape)}"
            )
        wrong = ~self.possible(outputs, y)
        if bool(wrong.any()):
            raise DataError(
                f"ordinal likelihood: targets must be from 0 to {self.num_classes - 1}, found {int(y[wrong][0])}; "
                "number the classes in their order, and tell num_classes"
            )
