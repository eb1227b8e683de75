"""What each operation of a traced network does to the entries of its inputs, as its record says."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from operator import attrgetter

import torch
from torch import Tensor, fx

from bayesprune.graph.memory import overwritten
from bayesprune.graph.repeated import Repeated
from bayesprune.graph.tables import dimension_of
from bayesprune.graph.tracing import Traced
from bayesprune.layers import Gate
from bayesprune.ops import Call, Features, Following, Operation, Step, barrier, name_of, operation_of
from bayesprune.ops.moving import follow
from bayesprune.ops.sizes import is_shape

Known = Mapping[fx.Node, Features | None]
MADE = "_tensor_constant"
"""How torch.fx calls tensors that forward makes anew in every pass, which cannot be cut."""
OVERWRITTEN = "whose output is overwritten in place while others read it"


class Rules:
    """The rules for one network with some of its gates switched off.

    Of a tensor one axis is followed at a time. A gate along another axis than the one that is followed where it stands
    only keeps zeros zero, and is put off: to rules that follow the axes of gates that were put off, and no layer's.

    Args:
        traced: The network.
        off: For gates that have entries switched off, where, shape ``(size,)``, bool.
        only: The gates to follow, put off by other rules, with the rank of what they gate; ``None`` for those along the
            features of layers, and others as far as they are not in conflict.

    Attributes:
        following: What is followed, and the gates that are left to other rules.
        assumed: Whether any tensor of unknown rank was taken for a matrix.
        shared: For gates of several structures that are used in several places, which entry each structure is.
    """

    def __init__(self, traced: Traced, off: Mapping[Gate, Tensor], only: Mapping[Gate, int] | None = None):
        self.traced = traced
        found = ((node, traced.module(node)) for node in traced.graph.nodes)
        self._modules = {node: module for node, module in found if module is not None}
        self._several = {traced.net.get_submodule(name) for name in traced.repeated}
        several = [gate for gate, uses in traced.uses.items() if len(uses) > 1 and gate.size > 1 and only is None]
        self._shared_at = {node: gate for gate in several for node in traced.uses[gate]}
        moved, waiting = traced.moved.setdefault(None if only is None else frozenset(only.items()), ({}, set()))
        self._start(Following(off, only, moved=moved, forms=traced.forms, waiting=waiting))

    def _start(self, following: Following) -> None:
        self.following = following
        self.assumed = False
        self.shared = {gate: following.fresh(gate.size) for gate in dict.fromkeys(self._shared_at.values())}
        self._attributes: dict[str, Tensor] = {}
        self._ways: dict[Gate, str] = {}
        self._repeated = Repeated()

    def with_off(self, off: Mapping[Gate, Tensor]) -> Rules:
        """The same rules with other gates switched off; what was found out by running calls is used again."""
        rules = copy(self)
        found, forms, waiting = self.following.moved, self.following.forms, self.following.waiting
        rules._start(Following(off, self.following.only, moved=found, forms=forms, waiting=waiting))
        return rules

    def step(self, node: fx.Node, known: Known) -> Step:
        """What ``node`` does.

        Args:
            node: The operation.
            known: What is known of its inputs.

        Raises:
            GateError: for a gate that does not fit what it gates.
            TraceError: for a layer that does not fit its input.
        """
        step = self._step(node, known)
        if node in self._shared_at:
            step = self._share(node, self._shared_at[node], step, known)
        if self._modules.get(node) in self._several:
            self._repeated.join(node, self._modules[node], step, known)
        self.following.ties += step.ties
        out = step.out
        if out is not None and out.layout == "plain" and node.op != "get_attr":
            rank = self.traced.rank(node) or out.rank
            if rank is not None:
                axis = out.axis % rank
                step.out = replace(out, rank=rank, axis=-1 if axis == rank - 1 and rank > 2 else axis)
            if rank == 2:
                sources = [known[i] for i in node.all_input_nodes]
                self.assumed = self.assumed or any(x is not None and x.rank is None for x in sources)
        return step

    def _step(self, node: fx.Node, known: Known) -> Step:
        if node.op == "placeholder":
            return Step()
        if node.op == "get_attr":
            return self._attribute(node, known)
        if node.op == "output":
            return barrier(node, "is an output of the network")
        if overwritten(self.traced, node):
            return barrier(node, f"reaches {node.name}, {OVERWRITTEN}")
        if node.op == "call_module" and str(node.target) in self.traced.fixed:
            return barrier(node, f"reaches {node.target}, which {self.traced.fixed[str(node.target)]}")
        if node.op == "call_module" and (len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node)):
            kind = type(self._modules[node]).__name__
            return barrier(node, f"reaches {node.target}, a {kind} that is not called with one tensor alone")
        if node.kwargs.get("out") is not None:
            return barrier(node, f"reaches {name_of(node)} with out=, which writes over another tensor")
        operation = operation_of(node, self._modules.get(node))
        several = None if self.traced.example is None else lambda: self.traced.shapes_of_several
        call = Call(
            node, self._modules, known, self.traced.shapes, self.following, several, self.traced.written,
            self.traced.constants,
        )  # fmt: skip
        if operation.moves and not is_shape(node):
            return follow(call, lambda: self._recorded(operation, call))
        return self._recorded(operation, call)

    def _recorded(self, operation: Operation, call: Call) -> Step:
        """What the record of an operation says of a call."""
        node, known = call.node, call.known
        if operation.takes != "anything":
            if all(known[i] is None for i in node.all_input_nodes):
                return Step()
            if not _one_tensor(operation, call):
                return call.wall(because=operation.wall)
        step = None if operation.entries is None else operation.entries(call)
        return step or call.wall(because=operation.wall)

    def _share(self, node: fx.Node, gate: Gate, step: Step, known: Known) -> Step:
        """Let what a gate multiplies in several places be one physical entry a structure.

        It then selects nothing of its input, unless nothing is known of what it multiplies, wherever it does.

        Args:
            node: One of the places.
            gate: The gate.
            step: What happens there, taken for its only place.
            known: What is known of inputs.
        """
        ids = self.shared[gate]
        if self.following.put_off.pop(gate, None) is not None:
            where = f"dimension {gate.dim}, which is not that of the features, by a gate that is used elsewhere too"
            step = barrier(node, f"is gated along {where}")
        way = "fixed" if step.out is None else "selects" if step.selects and not step.flows else "tied"
        if way == "fixed" or self._ways.setdefault(gate, way) != way:
            step.holds.append(ids)
        if step.out is not None:
            step.ties.append((ids, step.out.ids))
        if step.selects and way == "tied":
            step.selects = False
            step.ties += [(known[flow.node].ids[flow.src], step.out.ids[flow.dst]) for flow in step.flows]  # type: ignore[union-attr]
        return step

    def _attribute(self, node: fx.Node, known: Known) -> Step:
        """A parameter or buffer that is used directly, if it only scales or shifts entries, each by one of its own.

        Args:
            node: What reads it.
            known: What is known of tensors before.
        """
        target = str(node.target)
        owner, tensor = target.rpartition(".")[0], attrgetter(target)(self.traced.net)
        made = target.startswith(MADE)
        if not self.following.layers or owner in self.traced.fixed or made or not isinstance(tensor, Tensor):
            return Step()
        dim = None if id(tensor) in self.traced.tied else self._dimension(node, tensor, known)
        if dim is None:
            return Step()
        size = tensor.shape[dim]
        if target not in self._attributes:
            self._attributes[target] = self.following.fresh(size)
        return Step(Features(self._attributes[target], torch.full((size,), torch.nan, dtype=torch.float64), dim))

    def _dimension(self, node: fx.Node, tensor: Tensor, known: Known) -> int | None:
        """The dimension that entries of a parameter or buffer lie along, counted from the last, if there is one.

        Args:
            node: What reads it.
            tensor: The parameter or buffer.
            known: What is known of tensors before.
        """
        long = [dim - tensor.dim() for dim, size in enumerate(tensor.shape) if size > 1]
        same = [n for n in self.traced.graph.nodes if n.op == "get_attr" and n.target == node.target]
        if self.traced.example is not None and len(same) == 1:
            return dimension_of(self.traced, node, known) if tensor.is_floating_point() else None
        return long[0] if len(long) == 1 and all(map(self._only_scales, same)) else None

    def _only_scales(self, node: fx.Node) -> bool:
        """Whether a parameter, in its shape or another, is only added to something or multiplied with it."""
        for user in node.users:
            reader = operation_of(user, self.traced.module(user))
            if not (reader.adds or reader.kind == "product" or (reader.moves and self._only_scales(user))):
                return False
        return True


def _one_tensor(operation: Operation, call: Call) -> bool:
    """Whether a call is given one tensor with known features, and nothing else that is computed but sizes it can do."""
    node = call.node
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node) or call.known[first] is None:
        return False
    others = node.all_input_nodes[1:]
    if operation.pointwise:  # which may be given single numbers that are kept in buffers
        others = [other for other in others if other not in call.constants or call.constants[other].dim()]
    return all(map(is_shape, others)) if operation.takes == "sizes" else not others
