"""What flips of gates compute, beside what a step of the weights does: counted, so that it is the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from bayesprune.data.inputs import Inputs
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.infer import BayesianNet
from bayesprune.infer.flips import columnwise_nodes
from bayesprune.layers import Gate, eval_mode

ENTRY = 16
"""How many multiply-adds an entry of what a product gives counts besides: it is activated, gated, read and written."""
LAUNCH = 2**19
"""How many a product counts, however small it is, and what goes with it: in small networks calls take the time."""
STEP = 3
"""How many forward passes a step of the weights counts."""


class FlipCosts:
    """Multiply-adds of steps of the weights, and of flips of gates.

    Args:
        net: The network as it is now.
        x: Inputs, of which the first example is looked at.

    Attributes:
        base: Of a forward pass, for each example.
        launch: Of its calls, as multiply-adds.
        flips: Of the flip of each gate, for each example, shape ``(S,)``.
        launches: Of the calls that each gate needs for a batch, shape ``(S,)``; gates of a layer share theirs.
    """

    def __init__(self, net: BayesianNet, x: Inputs):
        with torch.no_grad(), eval_mode(net), net.draw.use(torch.ones_like(net.theta)[None]):
            self._pass = _Counted(net, x)
        self.base, self.launch = self._pass.total(self._pass.nodes), LAUNCH * self._pass.products(self._pass.nodes)
        self.flips, self.launches = torch.zeros(2, net.num_gates, dtype=torch.float64).unbind()
        begin = 0
        for name, gate in zip(net.gate_names, net.gates(), strict=True):
            part = slice(begin, begin + gate.size)
            behind, begin = self._behind(name, gate), begin + gate.size
            self.flips[part] = self._pass.total(behind) if gate.per_batch else self._unit(gate, behind)
            self.launches[part] = LAUNCH * self._pass.products(behind) / (1 if gate.per_batch else gate.size)

    def steps(self, number: int, examples: int) -> float:
        """Of so many steps of the weights on so many examples in all.

        Args:
            number: Of steps.
            examples: Of all of them together.
        """
        return STEP * (self.base * examples + self.launch * number)

    def _behind(self, name: str, gate: Gate) -> list[fx.Node]:
        """What a flip computes: all from the gate on, and of a gate that a batch shares the block it is in as well."""
        nodes, uses = self._pass.nodes, self._pass.traced.uses.get(gate, [])
        if not uses:
            return []
        first = nodes.index(uses[0])
        block = [k for k, node in enumerate(nodes) if f"{node.target}.".startswith(f"{name}.")]
        return nodes[min([first, *block]) :] if gate.per_batch else nodes[first + 1 :]

    def _unit(self, gate: Gate, behind: list[fx.Node]) -> float:
        """Of a flip of a gate that each example draws, see `UnitFlips`."""
        if not behind:
            return 0.0
        use = self._pass.traced.uses[gate][0]
        columns = columnwise_nodes(self._pass.traced, use, gate, self._pass.shapes[use])
        total, changed = 0.0, {use, *columns}
        for node in behind:
            sources = set(node.all_input_nodes)
            if node not in columns and sources & changed:
                changed.add(node)
                width = gate.size if sources & columns else 1  # a linear layer whose input changes in one place
                total += self._pass.macs[node] / width + self._pass.entries[node]
        return total


class _Counted(Execution):
    """A forward pass of one example whose nodes are counted.

    Args:
        net: The network.
        x: Inputs, of which the first example is taken.

    Attributes:
        macs: By node its multiply-adds.
        entries: By node what its entries count.
        shapes: By node the shape of what it gives.
    """

    def __init__(self, net: BayesianNet, x: Inputs):
        self.traced = net.traced
        super().__init__(self.traced.net, self.traced.graph)
        self.macs: dict[fx.Node, float] = dict.fromkeys(self.nodes, 0.0)
        self.entries: dict[fx.Node, float] = dict.fromkeys(self.nodes, 0.0)
        self.shapes: dict[fx.Node, torch.Size] = {}
        with FlopCounterMode(display=False) as self._counter:
            self.values(given_inputs(self.nodes, x[:1]))

    def compute(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Compute one operation, and count it."""
        before = self._counter.get_total_flops()
        value = super().compute(node, values)
        self.macs[node] = (self._counter.get_total_flops() - before) / 2
        if isinstance(value, Tensor):
            self.shapes[node] = value.shape
            self.entries[node] = float(ENTRY * value.numel()) if self.macs[node] else 0.0
        return value

    def products(self, nodes: Iterable[fx.Node]) -> float:
        """How many of some nodes are products."""
        return float(sum(self.macs[node] > 0 for node in nodes))

    def total(self, nodes: Iterable[fx.Node]) -> float:
        """Of some nodes, all in all."""
        return sum(self.macs[node] + self.entries[node] for node in nodes)
