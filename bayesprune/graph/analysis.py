"""Which entries of which tensors may physically go when some gates are off, so that the outputs stay what they are.

Forward: which entries are constant (0 where a gate is off, carried through what follows). Backward: which entries
anything needs. An entry goes if, wherever it shows up, it is constant or not needed, and no operation wants it in
place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from bayesprune.graph.rules import Rules
from bayesprune.graph.tracing import Traced
from bayesprune.layers import Gate
from bayesprune.ops import Features, Step


class Analysis:
    """The plan for one network with some of its gates off.

    Args:
        traced: The network.
        off: Where gates are off, by gate, shape ``(size,)``, bool.
        only: The gates to follow, as for `Rules`; all along other axes stay.

    Attributes:
        steps: What every operation does.
        known: What is known of every tensor.
        ties: Pairs of equally long ids that are one physical entry each.
        num_ids: How many ids there are.
        one: For each id the smallest one that is tied to it, shape ``(num_ids,)``.
        shared: For gates of several structures that are used in several places, the ids of these.
        put_off: Gates along other axes, which another plan must follow on its own: ``only`` of that.
        emptied: Layers that would be left without a single input, although something depends on them; one entry is
            kept for each.

    Examples:
        >>> from bayesprune.graph import trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), Gate(3), torch.nn.Linear(3, 1))
        >>> plan = Analysis(trace(net), {net[1]: torch.tensor([False, True, False])})
        >>> first = next(node for node in plan.steps if node.target == "0")
        >>> plan.kept(first, 3).tolist()
        [True, False, True]

    Raises:
        GateError: for a gate that does not fit what it gates.
        TraceError: for a layer that does not fit its input.
    """

    def __init__(self, traced: Traced, off: Mapping[Gate, Tensor], only: Mapping[Gate, int] | None = None):
        self.traced = traced
        rules = Rules(traced, off, only)
        self.known: dict[fx.Node, Features | None] = {}
        self.steps: dict[fx.Node, Step] = {}
        self._made: set[fx.Node] = set()  # of zeros, whatever gates do
        for node in traced.graph.nodes:
            step = self.steps[node] = rules.step(node, self.known)
            self.known[node] = step.out
            if step.out is not None and self._made.issuperset(flow.node for flow in step.flows):
                zero = node.op == "call_function" and not bool(step.out.unknown.any())
                self._made |= {node} if step.flows or zero else set()
        self.put_off = rules.following.put_off
        self.shared, self.num_ids = rules.shared, rules.following.num_ids
        self.ties = [tie for step in self.steps.values() for tie in step.ties]
        self.one = rules.following.one
        self._keep = torch.zeros(self.num_ids, dtype=torch.bool)
        self._need_backward()
        self.emptied = self._find_emptied()
        self.complete()

    def kept(self, node: fx.Node, size: int) -> Tensor:
        """Which entries in the output of an operation along its feature axis stay, shape ``(size,)``, bool.

        Args:
            node: The operation.
            size: How many entries there are.
        """
        features = self.known[node]
        if features is None:
            return torch.ones(size, dtype=torch.bool)
        return self.stay(features.ids)[features.entries(size, node.name)]

    def constants(self, node: fx.Node, size: int) -> Tensor:
        """The constants in the output of an operation, shape ``(size,)``, float64; 0 where entries are not constant.

        Args:
            node: The operation.
            size: How many entries there are.
        """
        features = self.known[node]
        if features is None:
            return torch.zeros(size, dtype=torch.float64)
        return features.value[features.entries(size, node.name)].nan_to_num()

    def stay(self, ids: Tensor) -> Tensor:
        """Which of these entries stay, bool."""
        return self._keep[self.one[ids]]

    def hold(self, ids: Tensor) -> None:
        """Let these entries stay; `complete` says what stays with them."""
        self._keep[self.one[ids]] = True

    def _need_backward(self) -> None:
        """From the outputs back: what is needed and not constant stays."""
        self._live = {node: torch.zeros(len(f), dtype=torch.bool) for node, f in self.known.items() if f is not None}
        for node in reversed(self.traced.graph.nodes):
            step = self.steps[node]
            for ids in step.holds:
                self.hold(ids)
            for source in step.pins:
                if source in self._live:
                    self._live[source][:] = True
                    self.hold(self.known[source].ids)  # type: ignore[union-attr]
            if step.out is not None:
                live = self._live[node] = self._live[node] & step.out.unknown
                self.hold(step.out.ids[live])
                for flow in step.flows:
                    self._live[flow.node][flow.src[live[flow.dst]]] = True
                if not bool(live.any()):
                    continue
            for read in step.reads:
                self._live[read.node][:] = True if read.needs is None else self._live[read.node] | read.needs
                self.hold(self.known[read.node].ids[read.must])  # type: ignore[union-attr]

    def _find_emptied(self) -> list[str]:
        """Layers whose outputs are needed, with no input left that is not constant."""
        emptied = []
        for node, step in self.steps.items():
            for read in step.reads:
                source = self.known[read.node]
                live = node not in self._live or bool(self._live[node].any())
                if (
                    source is not None
                    and read.node not in self._made
                    and live
                    and not bool(self.stay(source.ids).any())
                ):
                    emptied.append(str(node.target))
        return emptied

    def complete(self) -> None:
        """Keep at least one entry of every tensor, the entry that a gate multiplies, and what operations want whole."""
        before = -1
        while before != int(self._keep.sum()):
            before = int(self._keep.sum())
            for node in reversed(self.traced.graph.nodes):
                step = self.steps[node]
                if step.whole is not None:
                    self.hold(step.whole(self.stay))
                if step.out is None:
                    continue
                if not bool(self.stay(step.out.ids).any()):
                    self.hold(step.out.ids[:1])
                if step.selects:
                    for flow in step.flows:
                        kept = self.stay(step.out.ids)[flow.dst]
                        self.hold(self.known[flow.node].ids[flow.src[kept]])  # type: ignore[union-attr]
