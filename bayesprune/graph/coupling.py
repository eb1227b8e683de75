"""Which entries of which parameters are one structure, found by the ties of the analysis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from bayesprune.graph.analysis import Analysis
from bayesprune.graph.group import Group, Slice
from bayesprune.graph.tracing import Traced
from bayesprune.layers import Gate, Residual, gates_of, holders_of
from bayesprune.ops import operation_of
from bayesprune.ops.ties import joined

Lying = tuple[str, str | None, str, int, Tensor]
"""Of a dimension of a tensor that structures lie along: the module that owns it, whether they are its outputs
(``"out"``) or inputs (``"in"``) or go with them in between (``None``), the tensor's name, the dimension, and ids."""

NO_GATE = "has no gate"
"""Why structures stay of which nothing else is to be said."""


def coupled(traced: Traced) -> list[Group]:
    """The groups of a network: those along features, then those along other axes, whole branches last."""
    names = {gate: name for name, gate in gates_of(traced.net).items()}
    found: list[Group] = []
    only: Mapping[Gate, int] | None = None
    while only is None or only:
        axis = _Axis(traced, only)
        found += axis.groups(names)
        only = axis.plan.put_off
    return found + [_whole(traced, gate, names[gate]) for gate in traced.uses if gate.size == 1]


def _whole(traced: Traced, gate: Gate, name: str) -> Group:
    """What goes with a gate that holds one structure.

    Args:
        traced: The network.
        gate: The gate.
        name: Its name.
    """
    holders = holders_of(traced.net)[gate]
    slices = []
    for place, holder in holders.items():
        inside, prefix = (holder.body, f"{place}.body") if isinstance(holder, Residual) else (holder, place)
        thetas = {id(module.theta) for module in inside.modules() if isinstance(module, Gate)}
        for tensor, p in inside.named_parameters():
            if id(p) not in thetas:
                slices.append(Slice(f"{prefix}.{tensor}", 0, torch.zeros(p.shape[0] if p.dim() else 1).long()))
    emptied: list[str] = []
    if not all(isinstance(holder, Residual) for holder in holders.values()):
        emptied = Analysis(traced, {gate: torch.ones(1, dtype=torch.bool)}).emptied
    reason = f"would leave layer {emptied[0]} without any input" if emptied else ""
    return Group((name,), 1, tuple(holders), (), tuple(slices), reason)


class _Axis:
    """The groups along the features of layers, or along the axes of gates that were put off.

    Structures are told apart with every first one on and all others off.

    Args:
        traced: The network.
        only: As for `Analysis`.
    """

    def __init__(self, traced: Traced, only: Mapping[Gate, int] | None):
        self.traced, self.only = traced, only
        self.plan = plan = Analysis(traced, {}, only)
        self.gates = {**plan.shared, **dict(self._gates())}
        loose = [
            (plan.known[flow.node].ids[flow.src], step.out.ids[flow.dst])  # type: ignore[union-attr]
            for step in plan.steps.values()
            if step.selects and step.out is not None
            for flow in step.flows
        ]
        first = self._first(loose)
        self.off = Analysis(traced, {gate: ~first[ids] for gate, ids in self.gates.items()}, only)
        together = [pair for pair in loose if not bool(self.off.stay(pair[0])[~first[pair[0]]].any())]
        self.first = self._first(together)

    def _first(self, more: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Join what is tied, by the analysis and by ``more``; gives which ids are of the first structure of a group.

        So are those of the first one of a gate that has none otherwise, as where a layer's outputs have several gates.
        """
        plan, ids = self.plan, torch.arange(self.plan.num_ids)
        self.one = joined(plan.num_ids, [*plan.ties, *more])
        self.group = joined(plan.num_ids, [*plan.ties, *more, (self._blocks(), ids)])
        first = self.one == self.group
        for own in self.gates.values():
            if not bool(first[own].any()):
                first = first | (self.one == self.one[own[0]])
        return first

    def _gates(self) -> Iterator[tuple[Gate, Tensor]]:
        """The ids of the structures of gates that are used once."""
        for gate, uses in self.traced.uses.items():
            out = self.plan.steps[uses[0]].out
            followed = gate not in self.plan.put_off and (self.only is None or gate in self.only)
            if gate.size > 1 and gate not in self.plan.shared and followed and out is not None:
                yield gate, out.ids

    def _blocks(self) -> Tensor:
        """For each id the first one of those that came with it: outputs of one layer, say."""
        block, seen = torch.arange(self.plan.num_ids), 0
        for ids in [*self.plan.shared.values(), *(f.ids for f in self.plan.known.values() if f is not None)]:
            new = ids[ids >= seen]
            if len(new):
                block[new] = new.min()
                seen = int(new.max()) + 1
        return block

    def groups(self, names: Mapping[Gate, str]) -> list[Group]:
        """The groups, in the order of the forward pass.

        Args:
            names: Those of the gates.
        """
        lying: dict[int, list[Lying]] = {}
        for part in self._lying():
            for root in self.group[part[-1]].unique().tolist():
                lying.setdefault(root, []).append(part)
        found = [self._group(root, lying[root], names) for root in sorted(lying)]
        return [group for group in found if group.slices and (self.only is None or group.gates)]

    def _group(self, root: int, lying: Sequence[Lying], names: Mapping[Gate, str]) -> Group:
        """One group.

        Args:
            root: Its first id.
            lying: The dimensions of tensors that its structures lie along.
            names: Those of the gates.
        """
        ids = (self.group == root).nonzero()[:, 0]
        structures = self.one[ids].unique()
        gates = tuple(names[gate] for gate, own in self.gates.items() if bool((self.group[own] == root).any()))
        mine = [(*part, self.group[part[-1]] == root) for part in lying]
        slices = [
            Slice(tensor, dim, torch.where(here, torch.searchsorted(structures, self.one[own]), -1))
            for _, _, tensor, dim, own, here in mine
        ]
        written, read = (tuple(dict.fromkeys(part[0] for part in mine if part[1] == role)) for role in ("out", "in"))
        reason = self._reason(ids, gates, len(structures))
        return Group(gates, len(structures), written, read, tuple(slices), reason)

    def _lying(self) -> Iterator[Lying]:
        """Every dimension of a tensor that structures lie along."""
        places = {module: name for name, module in self.traced.net.named_modules()}
        met: set[tuple[str, int]] = set()  # of layers that are called more than once
        attributes: set[str] = set()
        for node in self.traced.graph.nodes:
            module, step = self.traced.module(node), self.plan.steps[node]
            target = str(node.target)
            if node.op == "get_attr" and step.out is not None and target not in attributes:
                attributes.add(target)
                owner, _, name = target.rpartition(".")
                tensor = getattr(self.traced.net.get_submodule(owner), name)
                yield owner, None, target, tensor.dim() + step.out.axis, step.out.ids
            if module is not None and not isinstance(module, Gate) and target not in self.traced.fixed:
                for part in self._of_module(node, module, places[module]):
                    if part[2:4] not in met:
                        met.add(part[2:4])
                        yield part

    def _of_module(self, node: fx.Node, module: nn.Module, place: str) -> Iterator[Lying]:
        """Those of the tensors of a module.

        Args:
            node: Its call.
            module: The module.
            place: Its name.
        """
        operation, step = operation_of(module), self.plan.steps[node]
        if operation.parts is None or (step.out is None and not step.reads):
            return
        parts = operation.parts(module)
        weight = getattr(module, "weight", None)
        layer = "in" in parts.sizes.values() or (weight is not None and weight.dim() > 1)
        ids: dict[str | None, Tensor] = {}
        for attribute, role in parts.sizes.items():
            source = node if role == "out" else node.all_input_nodes[0]
            features = self.plan.known[source]
            if features is not None and (role == "out" or step.reads):
                ids[role] = features.ids[features.entries(getattr(module, attribute), place)]
        for attribute, roles in parts.tensors.items():
            for dim, role in enumerate(roles):
                if role in ids and (held := getattr(module, attribute)) is not None:
                    tensor = f"{place}.{attribute}" if place else attribute
                    times = held.shape[dim] // len(ids[role])
                    yield place, role if layer else None, tensor, dim, ids[role].repeat(times)

    def _reason(self, ids: Tensor, gates: Sequence[str], size: int) -> str:
        """Why the structures of a group stay when their gates are off; empty if they go.

        Args:
            ids: Of all its entries.
            gates: The names of its gates.
            size: How many structures it has.
        """
        if size == 1:
            return "is the only one"
        mine = torch.zeros(max(self.off.num_ids, self.plan.num_ids), dtype=torch.bool)
        mine[ids] = True
        others = mine.clone()
        others[ids] = ~self.first[ids]
        for node, step in self.off.steps.items():
            if any(self._meets(source, mine) for source in step.pins):
                return step.reason
            if any(bool(others[held].any()) for held in step.holds):
                return f"stands where {node.name} keeps all entries in place"
            for read in step.reads:
                if self._meets(read.node, mine, read.must):
                    return read.reason
        if not gates:
            return NO_GATE
        open_elsewhere = bool(self.off.stay(ids[~self.first[ids]]).any())
        return "is written to, or read, where no gate of it silences" if open_elsewhere else ""

    def _meets(self, node: fx.Node, mine: Tensor, must: Tensor | None = None) -> bool:
        """Whether a tensor has an entry that is ``mine``, by its id, among those in ``must`` if that is given."""
        features = self.off.known[node]
        if features is None:
            return False
        found = mine[features.ids]
        return bool((found if must is None else found & must).any())
