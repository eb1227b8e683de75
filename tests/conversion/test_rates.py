"""Dropout within attention whose rate Python decides by the mode: the copy drops what its model drops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import gates_of
from bayesprune.layers.rate import DropoutRate
from tests.conversion.small import distance, switch_off


class Attention(nn.Module):
    """Attention of two heads that drops in training, its rate given by name or by place; and once none at all."""

    def __init__(self, by_name: bool, skips: bool = False):
        super().__init__()
        self.qkv, self.out, self.p, self.by_name, self.skips = nn.Linear(4, 12), nn.Linear(4, 2), 0.5, by_name, skips

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        rate = self.p if self.training else 0.0
        if self.by_name:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        else:
            x = F.scaled_dot_product_attention(q, k, v, None, rate, True)
        if not (self.skips and self.training):
            x = F.scaled_dot_product_attention(q, k, x)
        return self.out(x.transpose(1, 2).flatten(2))


def sequences() -> Tensor:
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def outputs(net: nn.Module, mode: bool) -> Tensor:
    torch.manual_seed(1)
    return net.train(mode)(sequences())


@pytest.mark.parametrize("by_name", [True, False])
def test_the_rate_follows_the_mode(by_name: bool) -> None:
    model = Attention(by_name).double().eval()
    net = bp.convert(model, example_input=sequences())
    for gate in gates_of(net).values():
        nn.init.ones_(gate.theta)
    assert [module.p for module in net.modules() if isinstance(module, DropoutRate)] == [0.5]
    assert torch.equal(outputs(net, True), outputs(model, True))
    assert torch.equal(outputs(net, False), outputs(model, False))
    assert not torch.equal(outputs(net, True), outputs(net, False))
    switch_off(net.eval(), 0.5)
    small = bp.compact(net, example_input=sequences())
    assert distance(small(sequences()), net(sequences())) < 1e-12
    assert not any(isinstance(module, DropoutRate) for module in small.modules())


def test_where_training_calls_attention_otherwise_the_rates_are_those_of_eval_mode() -> None:
    model = Attention(True, skips=True).double().eval()
    net = bp.convert(model, example_input=sequences())
    assert not any(isinstance(module, DropoutRate) for module in net.modules()) and not model.training
