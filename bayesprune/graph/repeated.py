"""A layer that is called in several places: what it reads, and what it gives, is one physical entry each everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from bayesprune.ops import Features, Step, operation_of
from bayesprune.ops.registry import Role


class Repeated:
    """Joins the calls of layers that are called more than once, in the order in which they are met."""

    def __init__(self) -> None:
        self._first: dict[tuple[nn.Module, Role], Tensor | None] = {}

    def join(self, node: fx.Node, module: nn.Module, step: Step, known: Mapping[fx.Node, Features | None]) -> None:
        """Tie the inputs and the outputs of a call to those of earlier ones; they stay where those of one are unknown.

        Constants other than 0 stay as well: one bias cannot take up what differs from call to call.

        Args:
            node: The call.
            module: The layer.
            step: What the call does, taken for the only one; it is changed.
            known: What is known of inputs.
        """
        parts = operation_of(module).parts
        assert parts is not None
        for role, size in {role: getattr(module, name) for name, role in parts(module).sizes.items()}.items():
            if role == "out":
                features = step.out
            else:
                features = known[node.all_input_nodes[0]] if step.reads or step.flows else None
            ids = None if features is None else features.ids[features.entries(size, str(node.target))]
            first = self._first.setdefault((module, role), ids)
            if first is None or ids is None:
                if role == "in" and ids is not None:
                    step.pins.append(node.all_input_nodes[0])
                    step.reason = f"is read by {node.target}, which elsewhere is called with what stays"
                step.holds += [each for each in (first, ids) if each is not None]
                self._first[module, role] = None
            elif first is not ids:
                step.ties.append((first, ids))
        reason = f"{node.target} is called more than once, so that its bias cannot take up the constant that is left"
        for place, read in enumerate(step.reads):
            x = known[read.node]
            assert x is not None
            lost = ~x.unknown & (x.value != 0)
            step.reads[place] = replace(read, must=read.must | lost, reason=read.reason or reason)
