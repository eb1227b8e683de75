"""With what probability each Normal weight of a network is there, its gates being independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from bayesprune.graph import Analysis, Presence, Traced, gates_of, trace
from bayesprune.graph.presence import Event, both, probability
from bayesprune.layers import NormalLayer, Residual
from bayesprune.ops.grouped import has_groups

WeightShares = tuple[Tensor | None, Tensor | None]
"""With what probability outputs and inputs of a layer are there, shapes ``(n_out,)`` and ``(n_in,)``, or one entry for
all; ``None`` where that is certain."""


class WeightPresence:
    """Θ_w: θ of the unit that a weight leads to, times θ of the one that it comes from, times θ of its branches.

    An output that nothing reads is not there either. Never less than the probability that the network's outputs depend
    on the weight; more where they do not because a whole layer on the way is off. Less, θ² for θ, where one structure
    of a gate in several places is both the input and the output of a weight.

    Args:
        net: The network.
        layers: Its layers with Normal weights, by name.
    """

    def __init__(self, net: nn.Module, layers: Mapping[str, NormalLayer]):
        self.layers = layers
        traced = trace(net)
        self._presence = Presence(traced)
        calls = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
        self._nodes = {name: calls[name] for name in layers if name in calls}
        self._branches = {name: _branches_around(net, name) for name in layers}
        self._lasting = _lasting_inputs(traced, self._nodes, layers)

    def __call__(self, theta: Mapping[str, Tensor]) -> tuple[list[WeightShares], list[WeightShares]]:
        """By layer, with what probability its outputs and inputs are there; differentiable.

        Args:
            theta: By gate name, the inclusion probabilities, shape ``(size,)``, on the CPU, float64.

        Returns:
            These, and the same given that the layer is computed, all branches that hold it being on.
        """
        present, needed = self._presence.present(theta)[0], self._presence.needed(theta)[0]
        shares = self._shares(theta, present, needed, {})
        return shares, self._shares(theta, present, needed, self._branches) if any(self._branches.values()) else shares

    def _shares(
        self,
        theta: Mapping[str, Tensor],
        present: Mapping[fx.Node, Event],
        needed: Mapping[fx.Node, Event],
        branches: Mapping[str, frozenset[str]],
    ) -> list[WeightShares]:
        """The shares, by layer given that the gates ``branches`` are on."""
        shares: list[WeightShares] = []
        for name, layer in self.layers.items():
            node = self._nodes.get(name)
            if node is None:
                shares.append((None, None))
                continue
            given = branches.get(name, frozenset())
            out = needed[node]
            if has_groups(layer) and layer.bias is not None:  # what it makes of an input that is off is its bias
                gate = self._presence.gates.get(node)
                if gate is not None:
                    out = out.and_gate(gate, theta[gate], shared=gate in self._presence.shared)
            elif node in present:
                out = both([present[node], out])
            columns = (
                None
                if has_groups(layer)
                else self._columns(node, present, theta, given | (out.gates - self._presence.shared))
            )
            shares.append((_probability(out, theta, given), columns))
        return shares

    def _columns(
        self, node: fx.Node, present: Mapping[fx.Node, Event], theta: Mapping[str, Tensor], given: frozenset[str]
    ) -> Tensor | None:
        """With what probability the inputs of the layer that ``node`` calls are there."""
        reads, name = self._presence.steps[node].reads, str(node.target)
        if not reads:  # nothing is known of them, but one gate may hold them all
            gate = self._presence.gates.get(node.all_input_nodes[0])
            return None if gate is None or len(theta[gate]) > 1 else theta[gate]
        columns = _probability(present[reads[0].node], theta, given)
        features = self._presence.steps[reads[0].node].out
        if columns is not None and len(columns) > 1 and features is not None:
            columns = columns[features.entries(self.layers[name].weight.shape[1], name)]
        if columns is not None and name in self._lasting:
            columns = torch.where(self._lasting[name], 1.0, columns)
        return columns

    def tables(self, shares: Sequence[WeightShares]) -> list[Tensor]:
        """Θ of weight and bias of one layer after another, each broadcastable to it, where it lies."""
        tables = []
        for layer, (rows, columns) in zip(self.layers.values(), shares, strict=True):
            like = layer.weight
            tail = [1] * (like.dim() - 2)
            table = torch.ones((1, 1, *tail), dtype=like.dtype, device=like.device)
            if rows is not None:
                table = table * rows.to(table).view(-1, 1, *tail)
            if columns is not None:
                table = table * columns.to(table).view(1, -1, *tail)
            tables.append(table)
            if layer.bias is not None:
                tables.append(torch.ones(1).to(table) if rows is None else rows.to(table))
        return tables


def _probability(event: Event, theta: Mapping[str, Tensor], given: frozenset[str]) -> Tensor | None:
    return probability(Event(event.gates - given, event.own), theta)


def _branches_around(net: nn.Module, name: str) -> frozenset[str]:
    """Names of the gates of residual blocks whose branch holds the layer ``name``, not computed when one is off."""
    names = {gate: gate_name for gate_name, gate in gates_of(net).items()}
    return frozenset(
        names[module.gate]
        for block, module in net.named_modules()
        if isinstance(module, Residual)
        and type(module).forward is Residual.forward
        and f"{name}.".startswith(f"{block}.body.")
    )


def _lasting_inputs(
    traced: Traced, nodes: Mapping[str, fx.Node], layers: Mapping[str, NormalLayer]
) -> dict[str, Tensor]:
    """By layer, which inputs are something else than 0 when their gates are off, shape ``(n_in,)``, bool.

    An activation may make a half of 0, say: the weights behind it are there whatever the gate.
    """
    off = {gate: torch.ones(gate.size, dtype=torch.bool) for gate in gates_of(traced.net).values()}
    analysis = Analysis(traced, off)
    lasting = {}
    for name, node in nodes.items():
        for read in analysis.steps[node].reads:
            features = analysis.known[read.node]
            if features is not None and bool((features.value != 0).any()):
                lasting[name] = (features.value != 0)[features.entries(layers[name].weight.shape[1], name)]
    return lasting
