"""Rows of linear maps, and what holds of every network in which they are fused."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bayesprune.graph import gates_of
from bayesprune.layers import Residual
from bayesprune.pruning import compact, cost, shrink
from tests.pruning.verify import TOLERANCE, off_by_mode, snapshot, verify_unchanged

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if isinstance(module, LAYERS)}


def switch_off(net: nn.Module, *names: str) -> nn.Module:
    """Switch off the gates of these names, or all."""
    with torch.no_grad():
        for name, gate in gates_of(net).items():
            gate.theta.fill_(0.0 if name in names or not names else 1.0)
    return net


def difference(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


def verify_fused(net: nn.Module, x: Tensor, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Values in both modes and the gradient of the inputs stay, ``net`` too; nothing costs more; twice is as once."""
    net, x = copy.deepcopy(net).to(dtype), x.to(dtype)
    for mode in (True, False):
        net.train(mode)
        before, structure = snapshot(net), str(net)
        plain = compact(net)
        verify_unchanged(net, before, structure)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        values, expected = plain(ours), copy.deepcopy(net)(theirs)
        values.sin().sum().backward()
        expected.sin().sum().backward()
        assert difference(values, expected) <= TOLERANCE[dtype]
        assert difference(ours.grad, theirs.grad) <= TOLERANCE[dtype]
    unfused = cost(shrink(net, off_by_mode(net), may_empty=True)[0], x)
    ours = cost(plain, x)
    assert ours.params <= unfused.params and ours.macs <= unfused.macs
    twice = compact(plain)
    assert twice.code == plain.code and str(twice) == str(plain)
    assert set(snapshot(plain)) <= set(snapshot(twice))
    return plain


conv = nn.Conv2d


def bypasses(*shortcuts: nn.Module) -> nn.Module:
    """Residual blocks that have these by-passes, in a row."""
    return nn.Sequential(*(Residual(copy.deepcopy(shortcut), shortcut) for shortcut in shortcuts))


def chain(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)
