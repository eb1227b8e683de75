"""What a checkpoint is compared by with the run that is to go on from it."""

from __future__ import annotations

from typing import Any

from bayesprune.infer import BayesianNet
from bayesprune.methods.protocol import Method, Model
from bayesprune.methods.svi.settings import Settings


def fingerprint(net: Model, prune: bool, settings: Settings, method: Method) -> dict[str, Any]:
    """What tells one run from another, besides its length, in plain values.

    Args:
        net: The network as the run begins.
        prune: Whether structures are removed while training.
        settings: How weights are trained.
        method: The method of pruning.
    """
    return {
        "network": {name: list(p.shape) for name, p in net.net.named_parameters()},
        "model": [
            type(net.likelihood).__name__,
            sorted(net.likelihood.settings().items()),
            net.num_data,
            *([] if net.loss_on is None else [_name(net.loss_on)]),
            *(_posterior(net) if isinstance(net, BayesianNet) else []),
        ],
        "method": method.name,
        "settings": [("prune", prune), *settings.plain(), *sorted(method.options().items())],
    }


def _posterior(net: BayesianNet) -> list[object]:
    prices = net.log_gamma.cpu().double()
    sums = [float(prices.sum()), float(prices.square().sum())]
    return [net.weight_precision, [net.weights_posterior.name, net.slab_scale, net.prior_type.__name__], sums]


def _name(loss_on: object) -> object:
    return loss_on if isinstance(loss_on, (int, str)) else getattr(loss_on, "__qualname__", type(loss_on).__name__)
