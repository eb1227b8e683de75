"""The peer that self-pruning is compared with: magnitude pruning after training, by Torch-Pruning.

Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) finds which channels depend on each other and removes the least
important groups; the networks it gives are fine-tuned afterwards.
"""

from __future__ import annotations

import copy
import importlib.util

import torch
from experiment import TooSmall
from torch import nn

import bayesprune as bp

STEPS = 400
"""In so many steps the pruner would remove everything; it is stopped at the first that is small enough."""
MISSING = "the peer is left out: it needs Torch-Pruning; pip install 'bayesprune[bench]'"


def available() -> bool:
    """Whether Torch-Pruning is installed."""
    return importlib.util.find_spec("torch_pruning") is not None


def pruned(net: nn.Module, example: torch.Tensor, macs: int) -> nn.Module:
    """A copy of ``net`` without its least important channels, of at most ``macs`` multiply-adds.

    Channels are ranked through the whole network by the L2 norm of the group of weights that goes with each, relative
    to the mean of their layer.

    Args:
        net: A trained network on the CPU whose last linear layer gives the outputs.
        example: Inputs, shape ``(1, ...)``.
        macs: Multiply-adds of one example to go down to.

    Raises:
        TooSmall: if the pruner does not get there.
    """
    import torch_pruning as tp  # optional

    smaller = copy.deepcopy(net)
    head = [module for module in smaller.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        smaller,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[head],
    )
    for _ in range(STEPS):
        if bp.cost(smaller, example).macs <= macs:
            return smaller
        pruner.step()
    raise TooSmall(f"the peer is left out: Torch-Pruning cannot bring this network down to {macs} multiply-adds")
