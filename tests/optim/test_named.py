"""Optimisers by name do what they say, also where some weights have no gradient."""

from __future__ import annotations

import math

import pytest
import torch

from bayesprune.optim import OPTIMIZERS, nesterov


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_pass_over_what_has_no_gradient(name: str):
    """The weights of a branch that was left out of the first step, and of one left out later."""
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = OPTIMIZERS[name]([used, unused], lr=0.1, weight_decay=0.0)
    for p in (used, unused, used):
        optimizer.zero_grad()
        p.square().sum().backward()
        other = unused if p is used else used
        before = other.detach().clone()
        optimizer.step()
        assert torch.equal(other, before)
        assert (p < 1).all()


def test_nesterov_adds_weight_decay_to_the_gradient():
    """Sutskever et al. 2013 as torch writes it: v ← 0.9 v + g, w ← w − lr (g + 0.9 v), g with λ w in it."""
    p = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = nesterov([p], lr=0.1, weight_decay=0.05)
    w = velocity = 0.0
    w = 2.0
    for gradient in (1.0, -3.0):
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        g = gradient + 0.05 * w
        velocity = g if velocity == 0.0 else 0.9 * velocity + g
        w -= 0.1 * (g + 0.9 * velocity)
        assert math.isclose(p.item(), w, rel_tol=1e-12)
