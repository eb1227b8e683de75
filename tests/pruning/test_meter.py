"""What single operations take: counted, and measured."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, fx, nn

from bayesprune import layers
from bayesprune.graph import trace
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import ExpectedCost, cost, measure_latency
from bayesprune.pruning.meter import WORKING, count_macs
from tests.pruning.nets import NETS

PAUSE = 0.004


@fx.wrap
def pause(x: Tensor) -> Tensor:
    until = WORKING() + PAUSE
    while WORKING() < until:
        pass
    return x


@fx.wrap
def wait(x: Tensor) -> Tensor:
    time.sleep(PAUSE)
    return x


class Slow(nn.Module):
    """One operation of a known duration."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(pause(self.before(x)))


@pytest.mark.parametrize("name", NETS)
def test_operations_add_up_to_the_whole_pass(name: str) -> None:
    build, shape = NETS[name]
    net, x = build().eval(), torch.randn(1, *shape)
    with torch.no_grad():
        for parameter, value in net.named_parameters():
            if parameter.endswith("theta"):
                value.fill_(1.0)
        assert sum(count_macs(trace(net), x).values()) == cost(net, x).macs


def test_a_slow_operation_takes_its_time_and_goes_with_its_branch() -> None:
    """Single small operations take a hundredth of the pause; a machine would have to be busy fifty times over."""
    net = nn.Sequential(nn.Linear(3, 4), Residual(Slow()), Residual(nn.Linear(4, 4)), nn.Linear(4, 2))
    x = torch.randn(2, 3)
    names = [str(node.target) for node in trace(net).graph.nodes if node.op.startswith("call")]
    seconds = measure_latency(net, x)
    assert len(seconds) == len(names) == 12
    slow = max(range(12), key=seconds.__getitem__)
    assert PAUSE <= seconds[slow] < 10 * PAUSE and "pause" in names[slow]
    assert [seconds[i] for i, target in enumerate(names) if target.endswith("gate")] == [0.0, 0.0]
    expected = ExpectedCost(net, x, ("latency",), seconds)
    on, off = torch.ones(1), torch.zeros(1)
    total, fast, same = (
        float(expected({"1": first, "2": second})["latency"]) for first, second in ((on, on), (off, on), (on, off))
    )
    assert total == pytest.approx(sum(seconds))
    assert fast <= total - PAUSE and same > PAUSE


@pytest.mark.skipif(WORKING is not time.thread_time, reason="the machine has no fine clock of threads")
def test_what_a_pass_waits_for_is_no_work_of_its_operations() -> None:
    class Waiting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return wait(x)

    assert sum(measure_latency(Waiting(), torch.zeros(1, 2))) < PAUSE / 4


def test_a_large_layer_takes_most_of_the_time() -> None:
    """A million multiply-adds against forty, with 256 examples: a hundred times as long at the very least."""
    net = nn.Sequential(layers.Linear(4, 4, gate="unit"), nn.Linear(4, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 2))
    seconds = measure_latency(net, torch.randn(256, 4))
    assert max(seconds) == seconds[2] > 10 * seconds[0]
    assert ExpectedCost(net, torch.randn(256, 4), ("latency",)).total["latency"] > seconds[2] / 10


def test_gates_take_no_time_and_select_what_is_left() -> None:
    net = nn.Sequential(Gate(3), layers.Linear(3, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2))
    seconds = measure_latency(net, torch.randn(2, 3))
    assert seconds[0] == 0 and all(value > 0 for value in seconds[1:])


def test_multiply_adds_are_those_of_one_example_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices and flips ask for those of the same graph after every removal."""
    traced = trace(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    first = count_macs(traced, torch.zeros(4, 3))
    assert sorted(first.values()) == [0, 5 * 2, 3 * 5]
    monkeypatch.setattr("bayesprune.pruning.meter._Pass", None)  # no second pass
    assert count_macs(traced, torch.zeros(1, 3)) == first


def test_a_parameter_that_is_expanded_to_its_own_shape_is_counted_with() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.fc = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.token.expand(x.shape[0], -1)) + self.fc(x)

    net, x = Token(), torch.zeros(2, 4)
    assert sum(count_macs(trace(net, x), x).values()) == 24
