"""What a gated network is expected to cost when each gate is on with its own probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from bayesprune.arguments import checked_arguments
from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.graph import Traced, trace
from bayesprune.graph.misfit import misfits_named
from bayesprune.graph.presence import Event, Presence, both, probability
from bayesprune.layers import RecurrentLayer, gates_of, plain_parameters
from bayesprune.ops import Parts, operation_of
from bayesprune.pruning.meter import count_macs, eval_mode, measure_latency

MEASURES = ("params", "macs", "latency")
"""Parameters; multiply-adds of one example; seconds of one pass on the device where the network is."""
DENSE, SQUARE, ENTRIES, INPUTS, TERMS, WHOLE = "dense", "square", "entries", "inputs", "terms", "whole"
"""What a part of the cost goes with: outputs times inputs; outputs times outputs, in recurrent layers; outputs; outputs
of which all terms are there; or it is there as long as anything reads any output."""


class ExpectedCost:
    """Expected cost of a gated network under independent ξ_s ~ Bern(θ_s).

    (Guenter & Sideris 2024b, section 3.) An entry of a layer's output counts if its gates are on and anything that is
    on reads it; a layer then costs its number of inputs times its number of outputs, and another operation its number
    of outputs. With independent gates this is multilinear in θ, so pricing by its derivative keeps the properties of a
    constant price: minima at θ ∈ {0, 1}. A branch whose gate is off costs nothing, whatever it is made of.

    A gate in several places counts once: with one that two layers write to a stream, an entry is there with θ, and a
    layer that reads and writes the stream costs E[n²].

    It is exact for chains whose layers cannot die whole, and for branches, also within each other. It approximates
    where layers can die (surgery keeps one structure of them), where units and a branch write to one stream (an entry
    stays wherever it is part of the stream as long as anything writes to it), and where a gate in several places cannot
    go from all of them (it then stays in all). Entries that only go together, as those of equal parts of a ``chunk``,
    are counted each by its own gate.

    Seconds are measured operation by operation at the present widths. What an operation takes however narrow it is goes
    when nothing reads it any more; the rest is attributed as multiply-adds are. So they are exact when a branch goes,
    and on a straight line between two measured points when units go. Measure a network that has become smaller anew.

    Args:
        net: Gated network.
        example: Inputs, shape ``(B, ...)``; multiply-adds are those of the first example, seconds those of the batch.
        measures: Which of ``MEASURES`` to take.
        seconds: What `measure_latency` gives, if it was asked before.
        overheads: Which part of them does not depend on widths; nothing, if left out.
        traced: The network as `trace` follows it in eval mode, if that was done before.

    Attributes:
        total: By measure, the cost with all gates on.

    Examples:
        >>> from bayesprune import layers
        >>> net = nn.Sequential(layers.Linear(2, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 1))
        >>> expected = ExpectedCost(net, torch.zeros(1, 2), ("params",))
        >>> expected.total["params"], expected({"0": torch.full((4,), 0.5)})["params"].item()
        (17.0, 9.0)

    Raises:
        TraceError: if the forward pass cannot be followed.
    """

    @checked_arguments
    def __init__(
        self,
        net: nn.Module,
        example: Inputs,
        measures: tuple[str, ...] = ("params", "macs"),
        seconds: Sequence[float] | None = None,
        overheads: Sequence[float] | None = None,
        traced: Traced | None = None,
    ):
        self.measures = measures
        with eval_mode(net), misfits_named(net, example, "ExpectedCost"):
            self.traced = trace(net) if traced is None else traced
            macs = count_macs(self.traced, example) if "macs" in measures else {}
        self.traced.learn_shapes(example)
        if "latency" in measures and seconds is None:
            seconds = measure_latency(net, example)
        calls = [node for node in self.traced.graph.nodes if node.op.startswith("call")]
        self.presence = Presence(self.traced)
        self._others: list[Presence] = []  # along other axes
        put_off = self.presence.put_off
        while put_off:
            self._others.append(Presence(self.traced, put_off))
            put_off = self._others[-1].put_off
        self._fixed = torch.zeros(len(measures), dtype=torch.float64)
        self._costs: dict[tuple[fx.Node, str], Tensor] = {}
        self._add_parameters()
        for node, amount in macs.items():
            self._add_work(node, "macs", amount)
        if seconds is not None:
            self._add_seconds(calls, seconds, overheads or [0.0] * len(calls))
        total = self._fixed + sum(self._costs.values())
        self.total: dict[str, float] = dict(zip(measures, total.tolist(), strict=True))

    def __call__(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Expected cost by measure, float64, differentiable in θ.

        Args:
            theta: By gate name, the inclusion probabilities, shape ``(size,)``.
        """
        theta = {name: value.to("cpu", torch.float64) for name, value in theta.items()}
        present, joint = self.presence.present(theta)
        needed, anything = self.presence.needed(theta)
        others = [(p, p.present(theta)[0], p.needed(theta)[0]) for p in self._others]
        by_gates: dict[frozenset[str], Tensor] = {}
        amounts, shares = [self._fixed], [torch.ones(1, dtype=torch.float64)]
        for (node, kind), amount in self._costs.items():
            if kind in (WHOLE, INPUTS):
                event = both([anything[node], Event(joint[node].gates)]) if node in joint else anything[node]
            else:
                here = joint.get(node) if kind == TERMS else None
                here = present[node] if here is None else here
                event = both([here, needed[node]])
            inputs = [_inputs(self.presence, node, present)]
            if kind == SQUARE:
                event = self._squared(event, theta)
            elif kind == DENSE:
                event, inputs = self._pairs(event, inputs[0], theta), []
            event = self._mean(event, theta)
            for other, there, read in others:
                event = both([event, self._mean(both([there.get(node, Event()), read[node]]), theta)])
                inputs.append(_inputs(other, node, there))
            if kind in (DENSE, INPUTS) or operation_of(node).kind == "product of matrices":
                event = both([event, *(self._mean(part, theta) for part in inputs)])
            if event.own is None:
                by_gates[event.gates] = by_gates[event.gates] + amount if event.gates in by_gates else amount
            else:
                amounts.append(amount)
                shares.append(probability(event, theta))  # type: ignore[arg-type]
        for gates, amount in by_gates.items():
            share = probability(Event(gates), theta)
            amounts.append(amount)
            shares.append(shares[0] if share is None else share)
        expected = torch.cat(shares) @ torch.stack(amounts)
        return dict(zip(self.measures, expected, strict=True))

    def _mean(self, event: Event, theta: Mapping[str, Tensor]) -> Event:
        """The mean over entries."""
        event = event.without(self.presence.shared, theta)
        if event.own is None or len(event.own) == 1:
            return event
        return Event(event.gates, event.own.mean(0, keepdim=True))

    def _pairs(self, outputs: Event, inputs: Event, theta: Mapping[str, Tensor]) -> Event:
        """That an output and an input are both there, in the mean over all pairs.

        A pair of which one gate decides both counts with its θ, not with the square.

        Args:
            outputs: For every output, that it is there.
            inputs: The same for inputs.
            theta: By gate name, the inclusion probabilities.
        """
        common = outputs.gates & inputs.gates & self.presence.shared
        mean = both([self._mean(outputs, theta), self._mean(inputs, theta)])
        if not common:
            return mean
        once, rest = probability(Event(common), theta), both([outputs, inputs])
        own = probability(Event((rest.gates & self.presence.shared) - common, rest.own), theta)
        more = once - once.square() if own is None else (once - once.square()) * own  # type: ignore[operator, union-attr]
        assert mean.own is not None
        return Event(mean.gates, mean.own + more.mean(0, keepdim=True) / len(more))

    def _squared(self, outputs: Event, theta: Mapping[str, Tensor]) -> Event:
        """That an output and an output are both there, in the mean over all pairs.

        Args:
            outputs: For every output, that it is there.
            theta: By gate name, the inclusion probabilities.
        """
        event = outputs.without(self.presence.shared, theta)
        if event.own is None or len(event.own) == 1:
            return event
        mean, alone = event.own.mean(0, keepdim=True), event.own - event.own.square()
        return Event(event.gates, mean.square() + alone.mean(0, keepdim=True) / len(alone))

    def _add_work(self, node: fx.Node, measure: str, amount: float) -> None:
        """Attribute what an operation computes; that of recurrent layers to their weights in turn.

        Args:
            node: The operation.
            measure: What is counted.
            amount: How much of it.
        """
        parts, module = self._parts(node), self.traced.module(node)
        if not isinstance(module, RecurrentLayer) or parts is None:
            return self._add(node, self._kind(node), measure, amount)
        weights = {name: getattr(module, name) for name, roles in parts.tensors.items() if len(roles) == 2}
        total = sum(weight.numel() for weight in weights.values())
        for weight in weights.values():
            self._add(node, self._parameter_kind(node, weight), measure, amount * weight.numel() / total)

    def _kind(self, node: fx.Node) -> str:
        """What the work of an operation goes with."""
        if operation_of(node, self.traced.module(node)).adds:
            return TERMS
        if self.presence.steps[node].out is None:
            return WHOLE
        parts = self._parts(node)
        return DENSE if parts is not None and parts.dense else ENTRIES

    def _parts(self, node: fx.Node) -> Parts | None:
        """The parts of the module that a node calls, if it has any."""
        module = self.traced.module(node)
        parts = operation_of(module).parts
        return None if parts is None else parts(module)

    def _add(self, node: fx.Node, kind: str, measure: str, amount: float) -> None:
        if measure in self.measures and amount:
            vector = self._costs.setdefault((node, kind), torch.zeros_like(self._fixed))
            vector[self.measures.index(measure)] += amount

    def _add_seconds(self, calls: Sequence[fx.Node], seconds: Sequence[float], overheads: Sequence[float]) -> None:
        """Attribute what operations take.

        Args:
            calls: The operations, in their order.
            seconds: Of each.
            overheads: The part of these that does not depend on widths.
        """
        if not len(calls) == len(seconds) == len(overheads):
            raise ConfigError(f"ExpectedCost: seconds must hold one number for each of {len(calls)} calls")
        for node, whole, overhead in zip(calls, seconds, overheads, strict=True):
            self._add(node, WHOLE, "latency", overhead)
            self._add_work(node, "latency", whole - overhead)

    def _add_parameters(self) -> None:
        """Attribute parameters to the operation that uses them; those of several, or of none, are fixed.

        Of a layer that is called more than once it is the last call, if the same gates decide about all of them.
        """
        if "params" not in self.measures:
            return
        users: dict[nn.Parameter, list[fx.Node]] = {p: [] for p in plain_parameters(self.traced.net).values()}
        for node in self.presence.steps:
            module = self.traced.module(node)
            for p in () if module is None else plain_parameters(module).values():
                users[p].append(node)
        deciding = self._deciding() if self.traced.repeated else {}
        for p, nodes in users.items():
            repeated = bool(nodes) and {str(node.target) for node in nodes} <= self.traced.repeated
            if len(nodes) == 1 or (repeated and len({deciding[node] for node in nodes}) == 1):
                self._add(nodes[-1], self._parameter_kind(nodes[-1], p), "params", p.numel())
            else:
                self._fixed[self.measures.index("params")] += p.numel()

    def _deciding(self) -> dict[fx.Node, frozenset[str]]:
        """By operation the names of gates of one structure, or in several places, that let what it gives be read."""
        on = {name: torch.ones(gate.size, dtype=torch.float64) for name, gate in gates_of(self.traced.net).items()}
        return {node: event.gates for node, event in self.presence.needed(on)[0].items()}

    def _parameter_kind(self, node: fx.Node, p: nn.Parameter) -> str:
        """What the size of a parameter goes with."""
        parts = self._parts(node)
        if parts is None:
            return WHOLE
        module = self.traced.module(node)
        roles = next((roles for name, roles in parts.tensors.items() if getattr(module, name) is p), ())
        if self._kind(node) == WHOLE:
            return INPUTS if "in" in roles and self.presence.steps[node].reads else WHOLE
        if roles[:2] == ("out", "out"):
            return SQUARE
        return DENSE if {"in", "out"} <= set(roles) else ENTRIES if "out" in roles else WHOLE


def _inputs(presence: Presence, node: fx.Node, present: Mapping[fx.Node, Event]) -> Event:
    """That an input of a layer is there."""
    reads = presence.steps[node].reads
    return present[reads[0].node] if reads else Event()
