"""The optimiser of the weights, as `Settings` name it."""

from __future__ import annotations

import torch

from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.settings import Settings
from bayesprune.optim.trial import check_optimizer, construct


def build_optimizer(net: BayesianNet, settings: Settings, prune: bool) -> torch.optim.Optimizer:
    """The optimiser of everything that is trained but θ; of nothing, where gates alone are learned.

    Args:
        net: The network, on its device.
        settings: How to train.
        prune: Whether the network becomes smaller while it is trained.

    Raises:
        ConfigError: for an optimiser that a trial refuses, see `check_optimizer`.
    """
    groups = net.parameter_groups() or [{"params": []}]
    mine = [p for group in groups for p in group["params"]]
    extra = {"fused": True} if settings.optimizer is torch.optim.Adam else {}  # which is known to keep the laws
    if not extra:
        decays = any(group["weight_decay"] > 0 for group in groups if group["params"])
        dims = {p.dim() for p in mine}
        check_optimizer(settings.optimizer, dims, net.theta.device, decays=decays, shrinks=prune)
    parameters = groups[0]["params"] if len(groups) == 1 and mine else groups
    decay = net.weight_precision / net.num_data
    return construct(settings.optimizer, parameters, lr=settings.lr, weight_decay=decay, **extra)
