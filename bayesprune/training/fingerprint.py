"""What a checkpoint is compared by with the run that is to go on from it."""

from __future__ import annotations

from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.settings import Settings


def fingerprint(net: BayesianNet, prune: bool, settings: Settings) -> dict[str, object]:
    """What tells one run from another, besides its length, in plain values.

    Args:
        net: The network as the run begins.
        prune: Whether structures are removed while training.
        settings: How to train.
    """
    prices = net.log_gamma.cpu().double()
    return {
        "network": {name: list(p.shape) for name, p in net.net.named_parameters()},
        "model": [
            type(net.likelihood).__name__,
            sorted(net.likelihood.settings().items()),
            net.num_data,
            net.weight_precision,
            [net.slab, net.slab_scale, net.fixed_prior],
            *([] if net.loss_on is None else [_name(net.loss_on)]),
            [float(prices.sum()), float(prices.square().sum())],
        ],
        "settings": [prune, *settings.plain()],
    }


def _name(loss_on: object) -> object:
    return loss_on if isinstance(loss_on, (int, str)) else getattr(loss_on, "__qualname__", type(loss_on).__name__)
