"""Following a network in one thread while others call theirs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from bayesprune.graph import trace
from bayesprune.layers import Gate

WAIT = 20


class Slow(nn.Module):
    """Its forward pass stands still when it is followed, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.gate, self.last = nn.Parameter(torch.ones(())), Gate(3), nn.Linear(3, 2)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x) * self.scale
        self.begun.set()
        assert self.go_on.wait(WAIT)
        return self.last(x)


def test_other_threads_compute_and_trace_as_ever() -> None:
    plain, x = nn.Sequential(Gate(3), nn.Linear(3, 2)), torch.randn(4, 3)
    plain.register_parameter("own", nn.Parameter(torch.ones(())))
    expected = plain(x)
    before = nn.Module.__call__, nn.Module.__getattr__
    slow = Slow()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(trace, slow)
        assert slow.begun.wait(WAIT)
        assert nn.Module.__call__ is not before[0]  # what fx does to all threads
        second = pool.submit(trace, plain)
        try:
            assert torch.equal(plain(x), expected)
            assert isinstance(plain.own, nn.Parameter)
            assert not second.done()
        finally:
            slow.go_on.set()
        targets = [[str(node.target) for node in done.result(WAIT).graph.nodes] for done in (first, second)]
    assert targets[0][:3] == ["x", "gate", "scale"] and targets[0][4:] == ["last", "output"]
    assert targets[1] == ["input", "0", "1", "output"] or targets[1] == ["input_1", "0", "1", "output"]
    assert (nn.Module.__call__, nn.Module.__getattr__) == before
