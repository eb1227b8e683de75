"""How well a network does on a loader."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.errors import DataError
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.infer.likelihoods import Categorical
from bayesprune.layers import eval_mode


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes:
        nll: Mean negative log-likelihood, nats per example.
        accuracy: Fraction of examples classified right; NaN where targets are not classes.
    """

    nll: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], likelihood: Likelihood | None = None) -> Score:
    """Score a network in eval mode (a `BayesianNet` at the mode of its gates).

    Args:
        model: The network, or a `BayesianNet`.
        loader: Batches of inputs and targets.
        likelihood: For a plain network; categorical if not given.

    Raises:
        DataError: if the loader is empty.
    """
    likelihood = model.likelihood if isinstance(model, BayesianNet) else likelihood or Categorical()
    device = next(model.parameters()).device
    nll = right = torch.zeros((), device=device)
    count = 0
    with eval_mode(model):
        for x, y in loader:
            outputs, y = model(x.to(device)), y.to(device)
            nll = nll + likelihood.nll(outputs, y).sum()
            if isinstance(likelihood, Categorical):
                right = right + (outputs.argmax(1) == y).sum()
            count += len(y)
    if count == 0:
        raise DataError("evaluate: the loader gave no batch; expected at least one example")
    accuracy = float(right) / count if isinstance(likelihood, Categorical) else math.nan
    return Score(float(nll) / count, accuracy)
