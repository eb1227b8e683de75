"""What flips of gates compute, beside what a step of the weights does: counted, so that it is the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet
from bayesprune.infer.flips import columnwise_nodes
from bayesprune.layers import Gate, eval_mode
from bayesprune.pruning.meter import count_macs

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
        with torch.no_grad(), eval_mode(net):
            self._traced = net.traced
            self._macs = count_macs(self._traced, x)
        if self._traced.example is None:
            self._traced.learn_shapes(x)
        self._nodes = list(self._traced.graph.nodes)
        self.base, self.launch = self._total(self._nodes), LAUNCH * self._products(self._nodes)
        self.flips, self.launches = torch.zeros(2, net.num_gates, dtype=torch.float64).unbind()
        begin = 0
        for name, gate in zip(net.gate_names, net.gates(), strict=True):
            part = slice(begin, begin + gate.size)
            behind, begin = self._behind(name, gate), begin + gate.size
            self.flips[part] = self._total(behind) if gate.per_batch else self._unit(gate, behind)
            self.launches[part] = LAUNCH * self._products(behind) / (1 if gate.per_batch else gate.size)

    def steps(self, number: int, examples: int) -> float:
        """Of so many steps of the weights on so many examples in all.

        Args:
            number: Of steps.
            examples: Of all of them together.
        """
        return STEP * (self.base * examples + self.launch * number)

    def _behind(self, name: str, gate: Gate) -> list[fx.Node]:
        """What a flip computes: all from the gate on, and of a gate that a batch shares the block it is in as well."""
        nodes, uses = self._nodes, self._traced.uses.get(gate, [])
        if not uses:
            return []
        first = nodes.index(uses[0])
        block = [k for k, node in enumerate(nodes) if f"{node.target}.".startswith(f"{name}.")]
        return nodes[min([first, *block]) :] if gate.per_batch else nodes[first + 1 :]

    def _unit(self, gate: Gate, behind: list[fx.Node]) -> float:
        """Of a flip of a gate that each example draws, see `UnitFlips`."""
        if not behind:
            return 0.0
        use = self._traced.uses[gate][0]
        columns = columnwise_nodes(self._traced, use, gate, self._traced.shapes[use])
        total, changed = 0.0, {use, *columns}
        for node in behind:
            sources = set(node.all_input_nodes)
            if node not in columns and sources & changed:
                changed.add(node)
                width = gate.size if sources & columns else 1  # a linear layer whose input changes in one place
                total += self._macs.get(node, 0) / width + self._entries(node)
        return total

    def _entries(self, node: fx.Node) -> float:
        """What the entries of a node count that is a product."""
        counts = self._macs.get(node) and node in self._traced.shapes  # recurrent layers give several tensors
        return float(ENTRY * self._traced.shapes[node].numel()) if counts else 0.0

    def _products(self, nodes: Iterable[fx.Node]) -> float:
        """How many of some nodes are products."""
        return float(sum(self._macs.get(node, 0) > 0 for node in nodes))

    def _total(self, nodes: Iterable[fx.Node]) -> float:
        """Of some nodes, all in all."""
        return sum(self._macs.get(node, 0) + self._entries(node) for node in nodes)
