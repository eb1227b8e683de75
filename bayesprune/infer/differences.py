"""Exact paired differences for all gates at once: what the data say about each structure, given the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.arguments import checked_arguments
from bayesprune.data.inputs import Inputs
from bayesprune.errors import DataError
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer.evaluation import BatchObjective
from bayesprune.infer.net import BayesianNet
from bayesprune.infer.outputs import chosen as chosen_output
from bayesprune.infer.targets import Targets, losses, repeated
from bayesprune.layers import Gate, GatedLayer, eval_mode
from bayesprune.ops import operation_of
from bayesprune.ops.sizes import is_batch_size, is_shape

ELEMENTS = 2**21
"""How many entries the largest tensor may have in all copies that are computed together."""


@torch.no_grad()
@checked_arguments
def paired_differences(
    net: BayesianNet, x: Inputs, y: Targets, xi: Tensor, on: Sequence[bool] | None = None
) -> tuple[Tensor, Tensor]:
    """C(ξ_s=1) − C(ξ_s=0) for every gate s, the other gates as in ξ, in eval mode.

    With Gaussian slabs all are computed with one draw of the weights.

    Since L is multilinear in θ, its mean over ξ ~ Bern(θ) is ∂L/∂θ_s − ρ_s exactly, for gates at 0 and 1 too: an
    unbiased estimate with no more noise than the examples bring. It takes S partial forward passes of the batch, each
    from the flipped gate on, so it is for now and then, not for every step.

    Args:
        net: The network.
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        xi: Gate values, shape ``(1, S)`` or ``(B, S)``.
        on: Which of the branch gates are on in ``xi``, where the host knows, see `BayesianNet.forward`.

    Returns:
        Mean difference and its standard error over examples (0 for a single one, of which it is not known), each of
        shape ``(S,)``, nats per example.

    Raises:
        DataError: for inputs that the network does not take, and for gate values or flags of another number.
    """
    with misfits_named(net.net, x, "paired_differences"), eval_mode(net), net.drawn_weights():
        _check_gates(net, x, xi, on)
        base, rows = _shared_flips(net, x, y, xi, on)
        if net.num_shared < net.num_gates:
            rows += _UnitFlips(net, x, y, xi.expand(len(x), -1)).differences(base)
    differences = torch.cat(rows)
    correction = min(1, len(x) - 1)
    return differences.mean(1), differences.std(1, correction=correction) / len(x) ** 0.5


@torch.no_grad()
@checked_arguments
def shared_differences(net: BayesianNet, x: Inputs, y: Targets, xi: Tensor, on: Sequence[bool] | None = None) -> Tensor:
    """The mean differences of `paired_differences` for the gates that a batch shares alone, shape ``(num_shared,)``.

    Args:
        net: As for `paired_differences`, and so are all others.
        x: As there.
        y: As there.
        xi: As there.
        on: As there.
    """
    with misfits_named(net.net, x, "shared_differences"), eval_mode(net), net.drawn_weights():
        _check_gates(net, x, xi, on)
        _, rows = _shared_flips(net, x, y, xi, on)
    return torch.cat(rows).mean(1) if rows else torch.zeros_like(net.theta.detach()[:0])


def _check_gates(net: BayesianNet, x: Inputs, xi: Tensor, on: Sequence[bool] | None) -> None:
    """Raise unless gate values and flags are those of this network for these inputs."""
    if xi.shape not in ((1, net.num_gates), (len(x), net.num_gates)):
        raise DataError(
            f"differences: xi must have shape (1, {net.num_gates}) or ({len(x)}, {net.num_gates}), got "
            f"{tuple(xi.shape)}"
        )
    if on is not None and len(on) != net.num_branches:
        raise DataError(f"differences: on must hold one flag for each of {net.num_branches} branches, got {len(on)}")


def _shared_flips(
    net: BayesianNet, x: Inputs, y: Targets, xi: Tensor, on: Sequence[bool] | None
) -> tuple[Tensor, list[Tensor]]:
    """Losses with the gates ξ, shape ``(B,)``, and for each gate that the batch shares its difference, ``(1, B)``."""
    objective = BatchObjective(net, x, y, on=on)
    shared = range(net.num_shared)
    base = objective(xi, skip=True, watch=shared)
    return base, [((base - objective.flipped(s)) * (2 * xi[0, s] - 1))[None] for s in shared]


class _UnitFlips:
    """Flips of the gates that each example draws, many at a time, computed from the gate on.

    A flip changes one column of what its gate multiplies. Through pointwise layers only that column is computed anew,
    and a linear layer behind it changes by an outer product, which is far less than its matrix product.

    Args:
        net: The network, in eval mode.
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        xi: Gate values, shape ``(B, S)``.
    """

    def __init__(self, net: BayesianNet, x: Inputs, y: Targets, xi: Tensor):
        self.net, self.x, self.y, self.xi = net, x, y, xi
        self.traced = net.traced
        self.execution = Execution(self.traced.net, self.traced.graph)
        self.nodes = self.execution.nodes
        with net.draw.use(xi):
            self.values = self.execution.values(given_inputs(self.nodes, x))

    def differences(self, base: Tensor) -> list[Tensor]:
        """C(ξ_s=1) − C(ξ_s=0) of each example given the losses ``base`` at ξ, in parts of shape ``(gates, B)``."""
        rows: list[Tensor] = []
        start = self.net.num_shared
        for gate in self.net.gates():
            if gate.per_batch:
                continue
            uses = self.traced.uses[gate]
            node = uses[0]
            ungated = self._ungated(node, gate)
            columnwise = self._columnwise(node, gate, ungated) if len(uses) == 1 else set()
            sizes = [value.numel() for value in map(self.values.get, self._after(node)) if isinstance(value, Tensor)]
            together = max(1, ELEMENTS // max(1, max(sizes) if columnwise else ungated.numel()))
            for chosen in torch.arange(gate.size, device=self.x.device).split(together):
                other = self._losses(node, gate, ungated, start, chosen, columnwise)
                rows.append((base - other) * (2 * self.xi[:, start + chosen].T - 1))
            start += gate.size
        return rows

    def _losses(
        self, node: fx.Node, gate: Gate, ungated: Tensor, start: int, chosen: Tensor, columnwise: set[fx.Node]
    ) -> Tensor:
        """Losses with one of the gates ``chosen`` flipped, shape ``(len(chosen), B)``."""
        count = len(chosen)
        values = _Tiled(self.execution, self.values, len(self.x), count)
        columns: dict[fx.Node, Tensor] = {}
        behind, uses = self._after(node), self.traced.uses[gate]
        gated = {self.traced.gate(later) for later in behind}
        tiled = {other: _tile(part, count) if other in gated else part for other, part in self._parts()}
        if columnwise:
            columns[node] = ((1 - self.xi[:, start + chosen]) * ungated[:, chosen]).T
        else:
            flipped = self.xi[:, start : start + gate.size].repeat(count, 1, 1)
            flipped[torch.arange(count, device=chosen.device), :, chosen] = 1 - self.xi[:, start + chosen].T
            tiled[gate] = flipped.flatten(0, 1)
            dim = getattr(self.traced.module(node), "gate_dim", gate.dim)
            values[node] = gate.scale(_tile(ungated, count), tiled[gate], dim)
        with self.net.draw.use(tuple(tiled.values())):
            for later in behind:
                if later in columnwise:
                    columns[later] = self.execution.compute(later, columns)
                elif columns.keys() & set(later.all_input_nodes):
                    values[later] = self._updated(later, columns[later.all_input_nodes[0]], chosen)
                elif later in uses or any(source in values.own for source in later.all_input_nodes):
                    values[later] = self.execution.compute(later, values)
        outputs = chosen_output(values[self.nodes[-1]], self.net.loss_on)
        return losses(self.net.likelihood, outputs, repeated(self.y, count)).view(count, -1)

    def _columnwise(self, node: fx.Node, gate: Gate, ungated: Tensor) -> set[fx.Node]:
        """The gate's node and the pointwise ones behind it, if all else that reads them is linear; none otherwise."""
        if ungated.dim() != 2 or gate.dim % 2 != 1 or ungated.shape[1] != gate.size:
            return set()
        found = {node}
        for later in self._after(node):
            if found & set(later.all_input_nodes):
                if self._is_pointwise(later):
                    found.add(later)
                elif not operation_of(later, self.traced.module(later)).linear:
                    return set()
        return found

    def _is_pointwise(self, node: fx.Node) -> bool:
        """Whether each entry of the node's value follows from that entry of its only input."""
        return len(node.args) == 1 and not node.kwargs and operation_of(node, self.traced.module(node)).pointwise

    def _updated(self, node: fx.Node, columns: Tensor, chosen: Tensor) -> Tensor:
        """What a linear layer gives if each copy of its input has another column, shape ``(copies · B, n)``.

        Args:
            node: The layer's node.
            columns: The new columns, shape ``(copies, B)``.
            chosen: Their places, shape ``(copies,)``.
        """
        layer: Any = self.traced.module(node)
        gate = getattr(layer, "gate", None)
        source = self.values[node.all_input_nodes[0]]
        base = layer(source) if gate is None else layer.ungated(source)  # an activation may have written over its value
        weight = layer.weight if getattr(layer, "drawn", None) is None else layer.drawn[0]
        change = (columns - source[:, chosen].T)[:, :, None] * weight[:, chosen].T[:, None]
        output = (base + change).flatten(0, 1)
        return output if gate is None else gate(output)

    def _after(self, node: fx.Node) -> list[fx.Node]:
        """All nodes behind ``node``, the output included."""
        return self.nodes[self.nodes.index(node) + 1 :]

    def _parts(self) -> Iterator[tuple[Gate, Tensor]]:
        """Each gate with its values, shape ``(B, size)``."""
        return zip(self.net.gates(), self.xi.split(self.net.draw.sizes, dim=-1), strict=True)

    def _ungated(self, node: fx.Node, gate: Gate) -> Tensor:
        """What a gate multiplies."""
        module = self.traced.module(node)
        assert isinstance(node.args[0], fx.Node) and module is not None
        source = self.values[node.args[0]]
        if isinstance(module, GatedLayer):
            return module.ungated(source)
        return gate.select(source)


class _Tiled(Mapping[fx.Node, Any]):
    """Values of nodes for several copies of a batch: own ones where computed anew, the batch's repeated elsewhere.

    Shapes, and numbers that are made of them, are those of the copies.

    Args:
        execution: Computes numbers that are made of shapes.
        base: The values for the batch itself.
        batch: Number of its examples.
        count: Number of copies.
    """

    def __init__(self, execution: Execution, base: Mapping[fx.Node, Any], batch: int, count: int):
        self.execution, self.base, self.batch, self.count = execution, base, batch, count
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
            return torch.Size((self.batch * self.count, *value[1:]))
        if is_batch_size(node):
            return self.batch * self.count
        if not isinstance(value, Tensor) and node.all_input_nodes and not is_shape(node):
            self.own[node] = self.execution.compute(node, self)
            return self.own[node]
        if not isinstance(value, Tensor) or node.op == "get_attr" or value.dim() == 0 or len(value) != self.batch:
            return value
        return _tile(value, self.count)


def _tile(value: Tensor, count: int) -> Tensor:
    return value.repeat(count, *[1] * (value.dim() - 1))
