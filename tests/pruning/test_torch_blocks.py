"""Branches that are one of torch's own larger modules: built, trained, costed and compacted like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual
from bayesprune.pruning import compact, cost
from tests.pruning.test_counter import ATTENTION, SelfAttention

LAYER = ATTENTION + 2 * 5 * 16 * 32


def transformer(**options) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)


BRANCHES = {
    "post-norm": (transformer, LAYER),
    "pre-norm": (lambda: transformer(norm_first=True, activation="gelu"), LAYER),
    "encoder": (lambda: nn.TransformerEncoder(transformer(), 2, enable_nested_tensor=False), 2 * LAYER),
    "attention": (SelfAttention, ATTENTION),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_residual(name: str) -> None:
    torch.manual_seed(0)
    build: Callable[[], nn.Module]
    build, macs = BRANCHES[name]
    net = nn.Sequential(nn.Linear(16, 16), Residual(build()), Residual(build()), nn.Flatten(), nn.Linear(80, 2))
    bnn, x = BayesianNet(net, num_data=10), torch.randn(3, 5, 16)
    bnn(x, bnn.theta.detach()).sum().backward()
    assert all(p.grad is not None for p in net[1].body.parameters())
    bnn.eval()
    rest = 5 * 16 * 16 + 160
    for theta, left in (([1.0, 1.0], 2), ([0.0, 1.0], 1), ([0.0, 0.0], 0)):
        with torch.no_grad():
            bnn.theta.copy_(torch.tensor(theta))
        plain = compact(bnn)
        with torch.no_grad():
            torch.testing.assert_close(plain(x), bnn(x), rtol=0, atol=1e-5)
        fused = rest if left else 160  # without a branch one linear map is left of the two
        assert cost(plain, x).macs == left * macs + fused and cost(bnn.net, x).macs == left * macs + rest
