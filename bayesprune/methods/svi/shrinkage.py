"""As the learning rate rises again, weights go on from a smaller size."""

from __future__ import annotations

import torch
from torch import nn

from bayesprune.infer import BayesianNet, Categorical
from bayesprune.layers import Gate
from bayesprune.methods.svi.schedule import Schedule

SHRINK = 0.4
"""What the weights are multiplied by."""
LONG = 1000
"""So many steps of fine-tuning there are at least where weights are shrunk."""


@torch.no_grad()
def shrink_weights(net: BayesianNet, schedule: Schedule) -> None:
    """Shrink the weights of a classifier that is a plain chain of linear layers, if it has time to find its size again.

    What weights have learnt by their directions stays, what they are sure of by their size is to be learnt again, in
    the network that is left (Ash & Adams 2020, arXiv 1910.08475, of training that is taken up again; no noise is added
    here). LeNet-5 lost by it in a short run, sums with by-passes were not tried, and behind a normalisation the size
    has no effect.

    Args:
        net: The network, with weights that are points.
        schedule: The phases of the run.
    """
    if schedule.steps - schedule.settle_end < LONG or not isinstance(net.likelihood, Categorical) or net.num_branches:
        return
    holders = [module for module in net.net.modules() if next(module.parameters(recurse=False), None) is not None]
    if all(isinstance(module, nn.Linear | Gate) for module in holders):
        for weight in net.weights().values():
            if weight.dim() > 1 and weight.requires_grad:
                weight.mul_(SHRINK)
