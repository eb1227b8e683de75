"""Exact expected losses of linear networks with gates, dropout and Normal weights, without drawing anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor, nn

from bayesprune.infer import BayesianNet
from bayesprune.layers import NormalLayer, Residual
from tests.infer.verify import probabilities


class Moments:
    """Mean and second moments of a vector that layers are applied to, whose last entries are their input.

    Exact for any order of linear layers with point or Normal weights (drawn output by output), dropout and branches.
    """

    def __init__(self, x: Tensor):
        self.mean, self.second, self.size = x, x[:, None] * x, len(x)

    def apply(self, module: nn.Module, xi: Mapping[nn.Module, float]) -> None:
        """What ``module`` makes of the last entries, with the value in ``xi`` of every branch's gate."""
        if isinstance(module, nn.Sequential):
            for part in module:
                self.apply(part, xi)
        elif isinstance(module, Residual):
            on, count = xi[module.gate], self.size
            self._map(torch.cat([torch.eye(count), torch.eye(count)]).double())
            self.size = count
            self.apply(module.body, xi)
            self.size = 2 * count
            self._map(torch.cat([torch.eye(count), on * torch.eye(count)], 1).double())
        elif isinstance(module, nn.Dropout):
            last = torch.arange(len(self.mean)) >= len(self.mean) - self.size
            self.second = self.second + torch.diag(last * self.second.diagonal() * module.p / (1 - module.p))
        else:
            assert isinstance(module, nn.Linear)
            self._linear(module)

    def _linear(self, layer: nn.Linear) -> None:
        noise = torch.zeros(layer.out_features, dtype=torch.float64)
        if isinstance(layer, NormalLayer):
            weight, bias = layer.variances()
            noise = (weight @ self.second.diagonal()[-self.size :] + bias).detach()
        self._map(layer.weight.detach(), layer.bias.detach())
        self.second[-self.size :, -self.size :] += torch.diag(noise)

    def _map(self, matrix: Tensor, shift: Tensor | None = None) -> None:
        """Replace the last entries c by matrix · c + shift."""
        kept = len(self.mean) - self.size
        whole = torch.block_diag(torch.eye(kept, dtype=torch.float64), matrix)
        if kept == 0:
            whole = matrix
        added = torch.zeros(len(whole), dtype=torch.float64)
        if shift is not None:
            added[kept:] = shift
        moved = whole @ self.mean
        self.second = whole @ self.second @ whole.T + moved[:, None] * added + added[:, None] * moved
        self.second = self.second + added[:, None] * added
        self.mean, self.size = moved + added, len(matrix)


def expected_loss(net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor) -> Tensor:
    """E ½ (y − output)² of one example, summed over outputs, for unit noise, up to the likelihood's constant."""
    moments = Moments(x)
    moments.apply(net.net, dict(zip(net.gates(), xi.tolist(), strict=True)))
    return (y.square() - 2 * y * moments.mean + moments.second.diagonal()).sum() / 2


def expected_slopes(net: BayesianNet, x: Tensor, y: Tensor) -> Tensor:
    """E[C | ξ_s=1] − E[C | ξ_s=0] + ρ_s over gates, dropout masks and weights, shape ``(S,)``."""
    theta, slopes = net.theta.detach(), []
    for s in range(len(theta)):
        slope = net.price[s].clone()
        for values in product((0.0, 1.0), repeat=len(theta)):
            xi = torch.tensor(values, dtype=torch.float64)
            others = torch.where(torch.arange(len(theta)) == s, xi, theta)
            slope += (2 * xi[s] - 1) * probabilities(others, xi[None])[0] * expected_loss(net, x, y, xi)
        slopes.append(slope)
    return torch.stack(slopes)
