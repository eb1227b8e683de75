"""An optimiser goes on over the survivors as if nothing had been removed: one step commutes with compaction."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.graph import gates_of
from bayesprune.layers import Gate, Residual
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import shrink
from bayesprune.types import IndexMap

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMISERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


def perceptron() -> tuple[nn.Module, Tensor, dict[str, list[int]]]:
    net = nn.Sequential(
        Gate(6),
        layers.Linear(6, 8, gate="unit"),
        nn.ReLU(),
        layers.Linear(8, 5, gate="unit"),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    return net, torch.randn(9, 6), {"0": [1], "1": [0, 3, 7], "3": [2]}


def convolutions() -> tuple[nn.Module, Tensor, dict[str, list[int]]]:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Gate(6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )
    return net, torch.randn(9, 2, 6, 6), {"3": [0, 4]}


def branches() -> tuple[nn.Module, Tensor, dict[str, list[int]]]:
    blocks = [Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(3)]
    return nn.Sequential(nn.Linear(4, 4), *blocks, nn.Linear(4, 3)), torch.randn(9, 4), {"2": [0]}


NETS = {"perceptron": perceptron, "convolutions": convolutions, "branches": branches}


def weights(net: nn.Module) -> dict[str, nn.Parameter]:
    thetas = {id(gate.theta) for gate in gates_of(net).values()}
    return {name: p for name, p in net.named_parameters() if id(p) not in thetas}


def train_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 3).backward()
    optimizer.step()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", NETS)
def test_a_step_commutes_with_compaction(name: str, optimiser: str) -> None:
    net, x, off_entries = NETS[name]()
    net, x = net.double(), x.double()
    optimizer = OPTIMISERS[optimiser](list(weights(net).values()))
    for _ in range(3):
        train_step(net, optimizer, x)
    off = {gate: torch.zeros(gates_of(net)[gate].size, dtype=torch.bool) for gate in off_entries}
    for gate, entries in off_entries.items():
        off[gate][entries] = True
        with torch.no_grad():
            gates_of(net)[gate].theta[entries] = 0.0
    smaller, index = shrink(net, off)
    groups = [dict(group, params=None) for group in optimizer.param_groups]
    remapped = OPTIMISERS[optimiser](list(weights(net).values()))
    remapped.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    remap_optimizer(remapped, weights(net), weights(smaller), index)
    assert [dict(group, params=None) for group in remapped.param_groups] == groups

    for _ in range(2):
        train_step(net, optimizer, x)
        train_step(smaller, remapped, x)
    removed = 0
    for key, parameter in weights(smaller).items():
        expected = index.select(key, weights(net)[key])
        torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-12)
        removed += weights(net)[key].numel() - parameter.numel()
    assert removed > 0 or len(weights(smaller)) < len(weights(net))
    held = {id(p) for group in remapped.param_groups for p in group["params"]}
    assert held == {id(p) for p in weights(smaller).values()} and {id(p) for p in remapped.state} <= held


def test_state_is_selected_entry_by_entry_and_counts_are_kept() -> None:
    old, new = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.Adam([old])
    moment = torch.arange(6.0).view(3, 2)
    optimizer.state[old] = {"step": torch.tensor(7.0), "exp_avg": moment, "exp_avg_sq": moment + 10}
    remap_optimizer(optimizer, {"w": old}, {"w": new}, IndexMap({"w": (torch.tensor([0, 2]), None)}))
    state = optimizer.state[new]
    assert state["step"].item() == 7 and state["exp_avg"].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert state["exp_avg_sq"].tolist() == [[10.0, 11.0], [14.0, 15.0]]
    assert old not in optimizer.state


def test_parameter_groups_keep_their_settings_and_lose_what_was_removed() -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [a, b], "lr": 0.1}, {"params": [c], "lr": 0.2}])
    smaller = nn.Parameter(torch.zeros(1))
    index = IndexMap({"a": (torch.tensor([1]),), "c": (None,)})
    remap_optimizer(optimizer, {"a": a, "b": b, "c": c}, {"a": smaller, "c": c}, index)
    assert [(group["lr"], [id(p) for p in group["params"]]) for group in optimizer.param_groups] == [
        (0.1, [id(smaller)]),
        (0.2, [id(c)]),
    ]


def test_a_parameter_of_another_network_is_refused_and_nothing_changed() -> None:
    mine, stranger = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([mine, stranger], lr=0.1)
    smaller = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=r"remap_optimizer: .* not in the old network.*pass"):
        remap_optimizer(optimizer, {"w": mine}, {"w": smaller}, IndexMap({"w": (torch.tensor([0]),)}))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(mine), id(stranger)]
