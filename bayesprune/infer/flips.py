"""Losses when single gates are flipped in single examples: for pairs of both only what changes is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs
from bayesprune.graph import Traced
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.infer.net import BayesianNet
from bayesprune.infer.outputs import chosen as chosen_output
from bayesprune.infer.targets import Targets, losses
from bayesprune.layers import Gate, GatedLayer
from bayesprune.ops import operation_of
from bayesprune.ops.sizes import is_batch_size, is_shape

ELEMENTS = 2**18
"""How many entries the largest tensor may have of all pairs that are computed together."""


class UnitFlips:
    """Flips of the gates that each example draws, as pairs of a gate and an example, computed from the gate on.

    A flip changes one column of what its gate multiplies. Through pointwise layers only that column is computed anew,
    and a linear layer behind it changes by a row of its weight times the change, which is far less than its matrix
    product. Where no entry changes (a unit whose activation is 0 either way, a black pixel), the difference is exactly
    0, and the pair is not computed. All other differences are those of whole passes, but for rounding.

    Args:
        net: The network, in eval mode.
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        xi: Gate values, shape ``(B, S)``.

    Attributes:
        base: Losses at ξ, shape ``(B,)``.
    """

    def __init__(self, net: BayesianNet, x: Inputs, y: Targets, xi: Tensor):
        self.net, self.y, self.xi = net, y, xi
        self.traced = net.traced
        first = _Ungated(self.traced.net, self.traced.graph)
        self.execution = Execution(self.traced.net, self.traced.graph)
        self.nodes = self.execution.nodes
        with net.draw.use(xi):
            self.values = first.values(given_inputs(self.nodes, x))
        self.base = losses(net.likelihood, chosen_output(self.values[self.nodes[-1]], net.loss_on), y)
        self._ungated = first.ungated
        self._rows: dict[fx.Node, Tensor] = {}

    def differences(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """C(ξ_s=1) − C(ξ_s=0) of each example, for some gates.

        Args:
            wanted: For which of all gates, bool, shape ``(S,)``; those that a batch shares are passed over.

        Returns:
            The differences, shape ``(S, B)``, 0 for the other gates, and how many pairs of each gate were computed.
        """
        found = self.base.new_zeros(len(wanted), len(self.base))
        pairs = torch.zeros(len(wanted), dtype=torch.long, device=found.device)
        start = self.net.num_shared
        for gate in self.net.gates():
            if gate.per_batch:
                continue
            stop = start + gate.size
            chosen = wanted[start:stop].nonzero()[:, 0]
            if len(chosen):
                found[start + chosen], pairs[start + chosen] = self._of(gate, start, chosen)
            start = stop
        return found, pairs

    def _of(self, gate: Gate, start: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The differences of gates ``chosen`` of one `Gate`, shape ``(len(chosen), B)``, and numbers of pairs."""
        flip = self._flip(gate, start, chosen)
        found = self.base.new_zeros(len(chosen), len(self.base))
        which, examples = flip.changes.nonzero(as_tuple=True)
        together = max(1, ELEMENTS // self._largest(flip))
        for rows, places in zip(examples.split(together), which.split(together), strict=True):
            other = self._losses(flip, places, rows)
            found[places, rows] = (self.base[rows] - other) * (2 * self.xi[rows, start + chosen[places]] - 1)
        return found, flip.changes.sum(1)

    def _flip(self, gate: Gate, start: int, chosen: Tensor) -> _Flip:
        """What the flips of gates ``chosen`` change, as far as it can be said for all examples at once."""
        node, several = self.traced.uses[gate][0], len(self.traced.uses[gate]) > 1
        ungated = self.ungated(node, gate)
        flip = _Flip(gate, node, start, chosen, ungated, {}, torch.ones(len(chosen), len(self.base), dtype=torch.bool))
        columnwise = columnwise_nodes(self.traced, node, gate, ungated.shape)
        if columnwise:
            flip.columns[node] = ((1 - self.xi[:, start + chosen]) * ungated[:, chosen]).T
            flip.changes = flip.changes.to(ungated.device).zero_()
            for later in self._after(node):
                if later in columnwise:
                    flip.columns[later] = self.execution.compute(later, flip.columns)
                else:
                    for source in columnwise & set(later.all_input_nodes):
                        flip.changes |= flip.columns[source] != self.values[source][:, chosen].T
        elif not several:
            dim = self._dim(node, gate, ungated)
            by_gate = ungated[:, None] if gate.size == 1 else ungated.movedim(dim, 1)
            flip.changes = (by_gate.flatten(2) if by_gate.dim() > 2 else by_gate[:, :, None]).any(-1)[:, chosen].T
        return flip

    def _losses(self, flip: _Flip, places: Tensor, rows: Tensor) -> Tensor:
        """Losses of examples ``rows``, in each of which the gate at ``places`` of ``flip.chosen`` is flipped."""
        values = _Gathered(self.execution, self.values, rows, len(self.base))
        behind, uses, gates = self._after(flip.node), self.traced.uses[flip.gate], flip.chosen[places]
        gated = {self.traced.gate(later) for later in behind}
        parts = {other: part.index_select(0, rows) if other in gated else part for other, part in self._parts()}
        if not flip.columns:
            own = self.xi[rows, flip.start : flip.start + flip.gate.size]
            own[torch.arange(len(rows), device=rows.device), gates] = 1 - self.xi[rows, flip.start + gates]
            parts[flip.gate] = own
            dim = self._dim(flip.node, flip.gate, flip.ungated)
            values[flip.node] = flip.gate.scale(flip.ungated[rows], own, dim)
        with self.net.draw.use(tuple(parts.values())):
            for later in behind:
                changed = flip.columns.keys() & set(later.all_input_nodes)
                if later in flip.columns:
                    continue
                if changed:
                    source = changed.pop()
                    change = flip.columns[source][places, rows] - self.values[source][rows, gates]
                    values[later] = self._updated(later, change, gates, rows)
                elif later in uses or any(source in values.own for source in later.all_input_nodes):
                    values[later] = self.execution.compute(later, values)
        outputs = chosen_output(values[self.nodes[-1]], self.net.loss_on)
        return losses(self.net.likelihood, outputs, self.y[rows])

    def _updated(self, node: fx.Node, change: Tensor, gates: Tensor, rows: Tensor) -> Tensor:
        """What a linear layer gives for examples in each of which one entry of its input changes.

        Args:
            node: The layer's node.
            change: By how much, shape ``(pairs,)``.
            gates: Which entry, shape ``(pairs,)``.
            rows: The examples, shape ``(pairs,)``.
        """
        layer: Any = self.traced.module(node)
        gate = getattr(layer, "gate", None)
        if node not in self._rows:
            if gate is None and self.values[node]._version:  # an activation has written over it
                self._ungated[node] = layer(self.values[node.all_input_nodes[0]])
            elif gate is None:
                self._ungated[node] = self.values[node]
            else:
                self.ungated(node, gate)
            weight = layer.weight if getattr(layer, "drawn", None) is None else layer.drawn[0]
            self._rows[node] = weight.T.contiguous()
        base, weight = self._ungated[node].index_select(0, rows), self._rows[node].index_select(0, gates)
        output = torch.addcmul(base, change[:, None], weight)
        return output if gate is None else gate(output)

    def ungated(self, node: fx.Node, gate: Gate) -> Tensor:
        """What a gate multiplies, computed once.

        Args:
            node: The node that multiplies.
            gate: The gate.
        """
        if node not in self._ungated:
            module = self.traced.module(node)
            assert isinstance(node.args[0], fx.Node) and module is not None
            source = self.values[node.args[0]]
            found = module.ungated(source) if isinstance(module, GatedLayer) else gate.select(source)
            self._ungated[node] = found
        return self._ungated[node]

    def _largest(self, flip: _Flip) -> int:
        """How many entries of one example the largest tensor has that is computed for a pair."""
        sizes = [1] if flip.columns else [flip.ungated[0].numel()]
        behind = [value for value in map(self.values.get, self._after(flip.node)) if isinstance(value, Tensor)]
        return max(sizes + [value.numel() // len(self.base) for value in behind])

    def _dim(self, node: fx.Node, gate: Gate, ungated: Tensor) -> int:
        """The dimension of what a gate multiplies that it runs along."""
        return int(getattr(self.traced.module(node), "gate_dim", gate.dim)) % ungated.dim()

    def _after(self, node: fx.Node) -> list[fx.Node]:
        """All nodes behind ``node``, the output included."""
        return self.nodes[self.nodes.index(node) + 1 :]

    def _parts(self) -> Iterator[tuple[Gate, Tensor]]:
        """Each gate with its values, shape ``(B, size)``."""
        return zip(self.net.gates(), self.xi.split(self.net.draw.sizes, dim=-1), strict=True)


class _Ungated(Execution):
    """A pass that keeps what the gates of layers multiply, where each example draws its own.

    Attributes:
        ungated: That, by node.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph):
        super().__init__(net, graph)
        self.ungated: dict[fx.Node, Tensor] = {}

    def call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module, a function or a method gives."""
        layer = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, GatedLayer) or layer.gate is None or layer.gate.per_batch:
            return super().call(node, args, kwargs)
        self.ungated[node] = layer.ungated(*args, **kwargs)
        return layer.gate(self.ungated[node], layer.gate_dim)


def columnwise_nodes(traced: Traced, node: fx.Node, gate: Gate, shape: torch.Size) -> set[fx.Node]:
    """The gate's node and the pointwise ones behind it, if all else that reads them is linear; none otherwise.

    Args:
        traced: The network.
        node: The first node that multiplies by the gate.
        gate: The gate.
        shape: Of what it multiplies.
    """
    if len(shape) != 2 or gate.dim % 2 != 1 or shape[1] != gate.size or len(traced.uses[gate]) > 1:
        return set()
    found = {node}
    for later in list(traced.graph.nodes):
        if found & set(later.all_input_nodes):
            operation = operation_of(later, traced.module(later))
            if operation.pointwise and len(later.args) == 1 and not later.kwargs:
                found.add(later)
            elif not operation.linear:
                return set()
    return found


@dataclass
class _Flip:
    """What flips of some gates of one `Gate` change.

    Attributes:
        gate: The gate.
        node: The first node that multiplies by it.
        start: Place of its first entry among all gates.
        chosen: Which of its entries are flipped.
        ungated: What it multiplies.
        columns: By node, the flipped columns, shape ``(len(chosen), B)``; empty where whole tensors are computed anew.
        changes: Whether anything changes, bool, shape ``(len(chosen), B)``.
    """

    gate: Gate
    node: fx.Node
    start: int
    chosen: Tensor
    ungated: Tensor
    columns: dict[fx.Node, Tensor]
    changes: Tensor


class _Gathered(Mapping[fx.Node, Any]):
    """Values of nodes for some rows of a batch: own ones where computed anew, those of the batch elsewhere.

    Shapes, and numbers that are made of them, are those of the rows.

    Args:
        execution: Computes numbers that are made of shapes.
        base: The values for the batch itself.
        rows: Examples of the batch, which may come several times.
        batch: Number of examples of the batch.
    """

    def __init__(self, execution: Execution, base: Mapping[fx.Node, Any], rows: Tensor, batch: int):
        self.execution, self.base, self.rows, self.batch = execution, base, rows, batch
        self.own: dict[fx.Node, Any] = {}

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def __setitem__(self, node: fx.Node, value: Any) -> None:
        self.own[node] = value

    def __getitem__(self, node: fx.Node) -> Any:
        if node in self.own:
            return self.own[node]
        value = self.base[node]
        if isinstance(value, torch.Size) and value[:1] == (self.batch,):
            return torch.Size((len(self.rows), *value[1:]))
        if is_batch_size(node):
            return len(self.rows)
        if not isinstance(value, Tensor) and node.all_input_nodes and not is_shape(node):
            self.own[node] = self.execution.compute(node, self)
            return self.own[node]
        if not isinstance(value, Tensor) or node.op == "get_attr" or value.dim() == 0 or len(value) != self.batch:
            return value
        return value.index_select(0, self.rows)
