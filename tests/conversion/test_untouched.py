"""Buffers and values are no numbers of a graph, and the model that is converted stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.errors import GateError, TraceError
from bayesprune.layers import Whole, gates_of
from tests.conversion.between import all_on, net_of, rows
from tests.conversion.small import distance


def test_buffers_that_forward_computes_with_are_no_numbers_without_an_example() -> None:
    def scaled(net: Any, h: Tensor) -> Tensor:
        return torch.relu(net.second(h)) * (net.kept.sum() + 1)

    model = net_of(scaled)
    net = all_on(bp.convert(model))
    for each in (model, net):
        each.get_buffer("kept").fill_(2.0)
    assert distance(net(rows(3)), model(rows(3))) < 1e-12


def test_a_condition_on_a_buffer_stays_whole_with_and_without_an_example() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("on", torch.tensor(True))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x if self.on else x

    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), Switch()).double().eval()
    for example in (rows(3), None):
        net = bp.convert(model, example_input=example)
        assert isinstance(net.get_submodule("3"), Whole) and set(gates_of(net)) == {"0_gate"}


def counted(net: Any, h: Tensor) -> Tensor:
    net.kept += 1
    return torch.relu(net.second(h))


def own_statistics(net: Any, h: Tensor) -> Tensor:
    h = net.second(h)[:, :, None].expand(-1, -1, 3) * torch.arange(3, device=h.device)
    return F.batch_norm(h, net.norm.running_mean, net.norm.running_var, training=True).relu().mean(2)


@pytest.mark.parametrize("between, refused", [(counted, True), (own_statistics, False)])
def test_the_model_stays_as_it_was(between: Callable[[Any, Tensor], Tensor], refused: bool) -> None:
    model = net_of(between)
    model.norm.train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    torch.manual_seed(5)
    drawn = torch.rand(2)
    torch.manual_seed(5)
    if refused:
        with pytest.raises((TraceError, GateError)):
            bp.convert(model, example_input=rows(3))
        net = model
    else:
        net = bp.convert(model, example_input=rows(3))
        bp.structures(net, example_input=rows(3))
    assert torch.equal(torch.rand(2), drawn)
    assert [module.training for module in model.modules()] == modes
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name
        assert name not in net.state_dict() or torch.equal(net.state_dict()[name], value), name


@pytest.mark.parametrize(
    "between",
    [
        lambda net, h: h if len(h[h > 9]) else net.second(h),
        lambda net, h: h if h[h > 9].shape[0] else net.second(h),
        lambda net, h: h if (h > 9).nonzero().numel() else net.second(h),
        lambda net, h: h if h.mean(1).tolist()[0] > 9 else net.second(h),
        lambda net, h: h if h.max().item() > 9 else net.second(h),
        lambda net, h: h if F.one_hot((h[:, 0] > 9).long()).shape[1] == 2 else net.second(h),
    ],
    ids=["len", "shape", "numel", "tolist", "item", "one_hot"],
)
def test_what_values_tell_is_no_size(between: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(TraceError, match=r"follows from what tensors hold.*test_untouched.py, line .*lambda net, h: h"):
        bp.convert(net_of(between), example_input=torch.zeros(2, 4).double())


def test_marks_of_so_many_classes_have_a_size() -> None:
    def marked(net: Any, h: Tensor) -> Tensor:
        marks = F.one_hot((h.sum(1) > 0).long(), num_classes=2)
        _, classes = marks.shape[:2]
        return torch.relu(net.second(h)) * marks[:, :1] * classes

    model = net_of(marked)
    net = all_on(bp.convert(model, example_input=rows(3)))
    assert distance(net(rows(5)), model(rows(5))) < 1e-12
