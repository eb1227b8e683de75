"""Optimisers of the weights, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn


def nesterov(params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.9. Not fused, which fails where some parameters have no gradient.

    Args:
        params: What it trains: parameters, or groups of them.
        lr: Learning rate.
        weight_decay: What is added to the gradient, times the parameters.
    """
    return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": nesterov}
