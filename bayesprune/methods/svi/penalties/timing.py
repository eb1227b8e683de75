"""Seconds of a network as shares of those that it took at its start, whatever else the machine does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.penalties.relative import Latency
from bayesprune.pruning import compare_latencies, shrink


class Timing:
    """Measures networks in turn with the network of the start, of which a copy is kept.

    A machine is by a factor of two faster at one time than at another, as other programs and its own temperature have
    it. Seconds of one time held against those of another would take that for a change of the network.

    Args:
        net: The network, with all of its structures.
        example: One input, shape ``(1, ...)``, where the network is.
        broadcast: Gives every process what process 0 passes.
    """

    def __init__(self, net: BayesianNet, example: Inputs, broadcast: Callable[[Any], Any]):
        self.net, self.example, self._broadcast = net, example, broadcast
        self._start, _ = shrink(net.net, {}, example_input=net.example_input)

    def share(self, network: nn.Module) -> float:
        """What a network takes."""
        return sum(self._measured(network)[0])

    def operations(self) -> Latency:
        """What every operation of the present network takes, and which part of that however narrow it is."""
        theta = self.net.by_gate(self.net.theta.detach())
        others = {name: torch.arange(len(part), device=part.device) > 0 for name, part in theta.items()}
        if all(len(mask) == 1 for mask in others.values()):
            (present,) = self._measured(self.net.net)
            return present, [0.0] * len(present)
        narrow, _ = shrink(self.net.net, others, may_empty=True, example_input=self.net.example_input)
        present, least = self._measured(self.net.net, narrow)
        return present, [min(pair) for pair in zip(present, least, strict=True)]

    def _measured(self, *networks: nn.Module) -> list[list[float]]:
        """What the operations of networks take."""
        start, *others = compare_latencies([self._start, *networks], self.example)
        whole = sum(start)
        return self._broadcast([[seconds / whole for seconds in each] for each in others])
