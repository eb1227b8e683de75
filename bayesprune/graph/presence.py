"""With what probability the entries of every tensor of a gated network are there, and with what anything reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, fx

from bayesprune.graph.analysis import Analysis
from bayesprune.graph.tracing import Traced
from bayesprune.layers import Gate, gates_of
from bayesprune.ops import Flow, operation_of


class Event(NamedTuple):
    """For every entry of a tensor, that the gates ``gates`` are on and something of probability ``own`` happens.

    What no gate decides has no gates and no ``own``, and so costs no arithmetic.

    Attributes:
        gates: Names of gates that hold one structure, on which all entries depend, or that are used in several places
            and hold one structure for each entry, on which that depends.
        own: For every entry, shape ``(n,)``, or for all, shape ``(1,)``, float64; ``None`` where it is certain.
    """

    gates: frozenset[str] = frozenset()
    own: Tensor | None = None

    def and_gate(self, name: str, theta: Tensor, *, shared: bool = False) -> Event:
        """This, and that the gate ``name`` is on, or for gates of several structures the one of each entry.

        Args:
            name: The gate.
            theta: Its inclusion probabilities.
            shared: Whether it is used in several places, so that this is to be remembered.
        """
        if shared or len(theta) == 1:
            return Event(self.gates | {name}, self.own)
        return both([self, Event(own=theta)])

    def without(self, names: frozenset[str], theta: Mapping[str, Tensor]) -> Event:
        """The same probability for each entry, forgetting that it depends on the gates ``names``.

        Args:
            names: The gates.
            theta: By gate name, the inclusion probabilities.
        """
        gone = self.gates & names
        return Event(self.gates - gone, probability(Event(gone, self.own), theta)) if gone else self


@dataclass(frozen=True)
class _Link:
    """Flows of one tensor into another, as one; an entry that several of them reach is there if one of its sources is.

    Attributes:
        flow: Where entries get to.
        same: Whether each gets to the same entry.
        into_all: Whether every entry is reached.
        from_all: Whether every entry gets anywhere.
        several: Whether entries are reached more than once.
    """

    flow: Flow
    same: bool
    into_all: bool
    from_all: bool
    several: bool = False


class Presence:
    """Events of being there and of being read, gates being independent: ξ_s ~ Bern(θ_s).

    Args:
        traced: The network.
        only: The gates to follow, as for `Analysis`, apart from all others.

    Attributes:
        steps: What every operation does, see `graph.Analysis`.
        gates: By node the name of the gate that it multiplies by, if that is followed.
        put_off: Gates along other axes, of which nothing is known here.
        shared: Names of gates of several structures that are used in several places.

    Examples:
        >>> from torch import nn
        >>> from bayesprune import graph, layers
        >>> net = nn.Sequential(layers.Linear(2, 2, gate="unit"), nn.ReLU(), nn.Linear(2, 1))
        >>> present, _ = Presence(graph.trace(net)).present({"0": torch.tensor([0.25, 1.0])})
        >>> [event.own.tolist() for event in present.values() if event.own is not None]  # of the units, and activated
        [[0.25, 1.0], [0.25, 1.0]]
    """

    def __init__(self, traced: Traced, only: Mapping[Gate, int] | None = None):
        analysis = Analysis(traced, {}, only)
        self.steps, self.put_off = analysis.steps, analysis.put_off
        names = {gate: name for name, gate in gates_of(traced.net).items()}
        self.shared = frozenset(names[gate] for gate in analysis.shared)
        self.gates: dict[fx.Node, str] = {}
        split: set[fx.Node] = set()
        for node in self.steps:
            gate = traced.gate(node)
            if gate is not None and gate not in self.put_off and (only is None or gate in only):
                self.gates[node] = names[gate]
                split |= {node} if gate.size > 1 else set()
        self._sizes = {node: len(step.out) for node, step in self.steps.items() if step.out is not None}
        self._links = {node: self._links_into(node) for node in self._sizes}
        self._reached = {node for node in self._sizes if self._all_reached(node)}
        self._whole = {node: self._read_whole(node) for node in self.steps}
        self._factors = {
            node: [read.node for read in step.reads] for node, step in self.steps.items() if len(step.reads) > 1
        }
        self._apart = self._find_apart(split)
        self._sums = {
            node: frozenset(self.gates[t] for t in node.all_input_nodes if t in self.gates and t not in split)
            for node, step in self.steps.items()
            if step.out is None and operation_of(node).adds
        }

    def present(self, theta: Mapping[str, Tensor]) -> tuple[dict[fx.Node, Event], dict[fx.Node, Event]]:
        """Whether the gates before them leave the entries of the tensors whose features are known there.

        Args:
            theta: By gate name, the inclusion probabilities, float64.

        Returns:
            That an entry is not silenced; and, for sums, that all of their terms are there (where features are not
            known, that the gates are on whose outputs are the terms).
        """
        present: dict[fx.Node, Event] = {}
        joint = {node: Event(gates) for node, gates in self._sums.items()}
        for node, links in self._links.items():
            sources = [self._carried(link, present[link.flow.node], theta) for link in links]
            if node in self._reached and all(p.own is None and p.gates == sources[0].gates for p in sources):
                here = both(sources[:1])
            else:
                parts = [self._forward(node, link, p) for link, p in zip(links, sources, strict=True)]
                here = both(parts) if operation_of(node).kind == "product" else either(parts, theta)
                if operation_of(node).adds:
                    joint[node] = both(parts)
            gate = self.gates.get(node)
            present[node] = here if gate is None else here.and_gate(gate, theta[gate], shared=gate in self.shared)
        return present, joint

    def needed(self, theta: Mapping[str, Tensor]) -> tuple[dict[fx.Node, Event], dict[fx.Node, Event]]:
        """Whether the gates behind them let anything read the entries of every tensor.

        Args:
            theta: By gate name, the inclusion probabilities, float64.

        Returns:
            That an entry is read (for all together where features are not known); and for every tensor that any entry
            is, taken for that of its likeliest entry where entries are read together.
        """
        readers: dict[fx.Node, list[Event]] = {node: [] for node in self.steps}
        there = self.present(theta)[0] if self._factors else {}
        needed: dict[fx.Node, Event] = {}
        anything: dict[fx.Node, Event] = {}
        for node in reversed(list(self.steps)):
            need = needed[node] = Event() if node.op == "output" else either(readers[node], theta)
            whole = anything[node] = self._any(node, need, theta)
            through, gate = need, self.gates.get(node)
            if gate is not None:
                through = need.and_gate(gate, theta[gate], shared=gate in self.shared)
                if len(theta[gate]) == 1:
                    whole = whole.and_gate(gate, theta[gate])
                elif need.own is not None or need.gates & self.shared:  # otherwise one of its entries is taken to be on
                    whole = self._any(node, through, theta)
            for link in self._links.get(node, ()):
                readers[link.flow.node].append(self._backward(node, link, self._carried(link, through, theta)))
            factors = self._factors.get(node, [])
            for source in self._whole[node]:
                others = [there[other] for other in factors if source in factors and other is not source]
                readers[source].append(both([whole, *others]))
        return needed, anything

    def _carried(self, link: _Link, event: Event, theta: Mapping[str, Tensor]) -> Event:
        """An event at one end of a flow: where entries move, what they share with others is forgotten."""
        return event if link.same else event.without(self.shared, theta)

    def _any(self, node: fx.Node, need: Event, theta: Mapping[str, Tensor]) -> Event:
        need = need.without(self.shared, theta)
        own = need.own
        if own is None or len(own) == 1:
            return need
        return Event(need.gates, 1 - (1 - own).prod(0, True) if node in self._apart else own.amax(0, True))

    def _forward(self, node: fx.Node, link: _Link, p: Event) -> Event:
        """What a flow brings to the entries of ``node``, given that of its source."""
        if link.same or (p.own is None and link.into_all):
            return p
        flow = link.flow
        given = _full(p.own, self._sizes[flow.node])[flow.src]
        if link.several:
            none = torch.ones(self._sizes[node], dtype=given.dtype)
            return Event(p.gates, 1 - none.scatter_reduce(0, flow.dst, 1 - given, "prod"))
        return Event(p.gates, torch.zeros(self._sizes[node], dtype=given.dtype).index_put((flow.dst,), given))

    def _backward(self, node: fx.Node, link: _Link, p: Event) -> Event:
        """That the entries of a flow's source are read through it, given that those of ``node`` are."""
        if link.same or (p.own is None and link.from_all):
            return p
        flow = link.flow
        none = 1 - _full(p.own, self._sizes[node])[flow.dst]
        start = torch.ones(self._sizes[flow.node], dtype=none.dtype)
        return Event(p.gates, 1 - start.scatter_reduce(0, flow.src, none, "prod"))

    # found once ----------------------------------------------------------------------------------------------------

    def _links_into(self, node: fx.Node) -> list[_Link]:
        """What gets into a tensor: a link a source, but for operations whose terms or factors count one by one."""
        flows = self.steps[node].flows
        operation = operation_of(node)
        if operation.adds or operation.kind == "product":
            return [self._link(node, [flow]) for flow in flows]
        sources = dict.fromkeys(flow.node for flow in flows)
        return [self._link(node, [flow for flow in flows if flow.node is source]) for source in sources]

    def _link(self, node: fx.Node, flows: Sequence[Flow]) -> _Link:
        """Flows from one source into a tensor.

        Args:
            node: The tensor.
            flows: The flows; a view that puts the features of a head into one has as many as these.
        """
        flow = Flow(flows[0].node, torch.cat([one.src for one in flows]), torch.cat([one.dst for one in flows]))
        size, source = self._sizes[node], self._sizes[flow.node]
        every = torch.arange(size)
        if source == size and torch.equal(flow.src, every) and torch.equal(flow.dst, every):
            return _Link(flow, True, True, True)
        reached = len(flow.dst.unique())
        return _Link(flow, False, reached == size, len(flow.src.unique()) == source, reached < len(flow.dst))

    def _all_reached(self, node: fx.Node) -> bool:
        """Whether flows reach every entry of a tensor, or there are none."""
        links = self._links[node]
        if not links or any(link.into_all for link in links):
            return True
        return len(torch.cat([link.flow.dst for link in links]).unique()) == self._sizes[node]

    def _read_whole(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of which an operation needs every entry, or of which no entries are known."""
        step = self.steps[node]
        named = [*(read.node for read in step.reads), *step.pins]
        unknown = [source for source in node.all_input_nodes if source not in self._sizes]
        return list(dict.fromkeys([*named, *unknown]))

    def _find_apart(self, split: set[fx.Node]) -> set[fx.Node]:
        """Tensors whose entries are not all read together, but each through one of the gates in ``split``."""
        apart: set[fx.Node] = set()
        for node in reversed(list(self._links)):
            if node in apart or node in split:
                apart.update(link.flow.node for link in self._links[node])
        return apart


def both(events: Sequence[Event]) -> Event:
    """All of several events, independent but for the gates they share; of none, always."""
    gates: frozenset[str] = frozenset()
    own: Tensor | None = None
    for event in events:
        gates = gates | event.gates
        own = event.own if own is None else own if event.own is None else own * event.own
    return Event(gates, own)


def either(events: Sequence[Event], theta: Mapping[str, Tensor]) -> Event:
    """At least one of several events, independent but for the gates they share; of none, never.

    Args:
        events: The events.
        theta: By gate name, the inclusion probabilities.
    """
    if not events:
        return Event(own=torch.zeros(1, dtype=torch.float64))
    if len(events) == 1:
        return events[0]
    shared = frozenset.intersection(*(event.gates for event in events))
    none: Tensor | None = None
    for event in events:
        p = probability(Event(event.gates - shared, event.own), theta)
        if p is None:
            return Event(shared)
        none = 1 - p if none is None else none * (1 - p)
    assert none is not None
    return Event(shared, 1 - none)


def probability(event: Event, theta: Mapping[str, Tensor]) -> Tensor | None:
    """The probability of an event, ``None`` if it is certain.

    Args:
        event: The event.
        theta: By gate name, the inclusion probabilities.
    """
    p = event.own
    for name in sorted(event.gates):
        p = theta[name] if p is None else p * theta[name]
    return p


def _full(own: Tensor | None, size: int) -> Tensor:
    """A probability for each of ``size`` entries."""
    return torch.ones(size, dtype=torch.float64) if own is None else own.expand(size)
