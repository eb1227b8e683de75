"""Exact paired differences for all gates at once: what the data say about each structure, given the others."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.infer.net import BayesianNet

ROWS = 4096
"""How many rows (examples times flipped gates) one evaluation holds."""


@torch.no_grad()
def paired_differences(net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    """C(ξ_s=1) − C(ξ_s=0) for every gate s, the other gates as in ξ, in eval mode.

    Since L is multilinear in θ, its mean over ξ ~ Bern(θ) is ∂L/∂θ_s − ρ_s exactly, for gates at 0 and 1 too: an unbiased estimate with no more
    noise than the examples bring. Takes S forward passes of the batch, so it is for now and then, not for every step.

    Args:
        net: The network.
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        xi: Gate values, shape ``(1, S)`` or ``(B, S)``.

    Returns:
        Mean difference and its standard error over examples, each of shape ``(S,)``, nats per example.
    """
    was_training = net.training
    net.eval()
    try:
        base = net.likelihood.nll(net(x, xi, skip=True), y)
        rows = [_flip_shared(net, x, y, xi, base, s) for s in range(net.num_shared)]
        if net.num_shared < net.num_gates:
            rows += _flip_units(net, x, y, xi.expand(len(x), -1), base)
    finally:
        net.train(was_training)
    differences = torch.stack(rows)
    return differences.mean(1), differences.std(1) / len(x) ** 0.5


def _flip_shared(net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor, base: Tensor, s: int) -> Tensor:
    """Differences of one gate that the batch shares, shape ``(B,)``."""
    flipped = xi.clone()
    flipped[:, s] = 1 - flipped[:, s]
    other = net.likelihood.nll(net(x, flipped, skip=True), y)
    return (base - other) * (2 * xi[0, s] - 1)


def _flip_units(net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor, base: Tensor) -> list[Tensor]:
    """Differences of the gates that each example draws, several gates in one pass."""
    together = max(1, ROWS // len(x))
    rows: list[Tensor] = []
    for chosen in torch.arange(net.num_shared, net.num_gates, device=x.device).split(together):
        count = len(chosen)
        flipped = xi.repeat(count, 1, 1)
        flipped[torch.arange(count), :, chosen] = 1 - xi[:, chosen].T
        tiled = x.repeat(count, *[1] * (x.dim() - 1))
        targets = y.repeat(count, *[1] * (y.dim() - 1))
        other = net.likelihood.nll(net(tiled, flipped.flatten(0, 1), skip=True), targets).view(count, -1)
        rows += list((base - other) * (2 * xi[:, chosen].T - 1))
    return rows
