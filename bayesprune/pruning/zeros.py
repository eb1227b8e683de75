"""Gates that are off where their structures stay: the layers before them write the zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from bayesprune.errors import TraceError
from bayesprune.graph import Analysis, Traced
from bayesprune.layers import RecurrentLayer
from bayesprune.ops import operation_of
from bayesprune.ops.registry import Operation, never


@torch.no_grad()
def write_zeros(traced: Traced) -> None:
    """Switch gates on that stand alone, where the layers before can write the zeros of those that are off.

    Between the two may be what keeps zeros and what nothing else reads.

    Args:
        traced: The network, in eval mode; layers and θ are edited in place.
    """
    off = {
        gate: [node for node in uses if not isinstance(traced.module(node), RecurrentLayer)]  # which multiply no output
        for gate, uses in traced.uses.items()
        if gate.index is None and not bool(gate.mode().all())
    }
    try:
        plan = Analysis(traced, {}) if off else None
    except TraceError:  # without an example inputs are taken for another number of dimensions than they have
        return
    for gate, uses in off.items():
        writers = [_writer(traced, node, gate.size) if traced.module(node) is gate else None for node in uses]
        pairs = zip(writers, uses, strict=True)
        if plan is None or gate in plan.put_off or not all(_is_whole(plan, writer, node) for writer, node in pairs):
            continue
        for layer in [traced.module(writer) for writer in writers if writer is not None]:
            assert layer is not None
            mask_outputs(layer, operation_of(layer), gate.mode())
        gate.theta.fill_(1.0)


def _is_whole(plan: Analysis, writer: fx.Node | None, node: fx.Node) -> bool:
    """Whether what a gate multiplies is just what a layer writes.

    Args:
        plan: What is known of the network's tensors.
        writer: The call of the layer; ``None`` if there is none.
        node: The call of the gate.
    """
    made, given = plan.known.get(writer), plan.known[node.all_input_nodes[0]]  # type: ignore[arg-type]
    return made is not None and given is not None and torch.equal(made.ids, given.ids)


def _writer(traced: Traced, node: fx.Node, size: int) -> fx.Node | None:
    """The call of a layer, or of a normalisation, whose zeros reach a gate; ``None`` if there is none.

    Args:
        traced: The network.
        node: The call of the gate.
        size: How many structures the gate has.
    """
    writer: Any = node.args[0]
    stays = {*traced.fixed, *traced.repeated}
    while isinstance(writer, fx.Node) and len(writer.users) == 1 and str(writer.target) not in stays:
        module = traced.module(writer)
        operation = operation_of(writer, module)
        if operation.parts is not None:
            return writer if _is_masked(module, operation, size) else None
        if not operation.pointwise or not _keeps_zeros(writer, module):
            break
        writer = writer.all_input_nodes[0]
    return None


def _is_masked(module: Any, operation: Operation, size: int) -> bool:
    """Whether a module gives zeros where its parameters along its outputs are multiplied by zeros.

    Args:
        module: The module.
        operation: Its record.
        size: How many outputs it must have.
    """
    if isinstance(module, RecurrentLayer):
        return module.gate.in_size == size
    roles = operation.parts(module).tensors.get("weight", ()) if operation.parts is not None else ()
    if not isinstance(module, (nn.Linear, _ConvNd)) and operation.kind != "normalisation":
        return False
    return "out" in roles and module.weight is not None and module.weight.shape[roles.index("out")] == size


def _keeps_zeros(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation that works entry by entry makes 0 of 0, as all do that draw: dropout, stochastic depth.

    Args:
        node: The call.
        module: The module that it calls, if it calls one.
    """
    if operation_of(node, module).random is not never:
        return True
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: torch.zeros(1))
    called = module if module is not None else getattr(torch.Tensor, str(node.target), node.target)
    return callable(called) and bool((called(*args, **kwargs) == 0).all())


def mask_outputs(layer: nn.Module, operation: Operation, on: Tensor) -> None:
    """Multiply the outputs of a layer by what a gate does, in its weights.

    Args:
        layer: The layer, which gets new parameters.
        operation: Its record.
        on: The mode of the gate, shape ``(outputs,)``.
    """
    assert operation.parts is not None
    for name, roles in operation.parts(layer).tensors.items():
        parameter = layer._parameters.get(name)
        if parameter is not None:
            masked, kept = parameter.detach(), on.to(parameter.dtype)
            for dim in [dim for dim, role in enumerate(roles) if role == "out"]:
                shape = [-1 if other == dim else 1 for other in range(parameter.dim())]
                masked = masked * kept.repeat(parameter.shape[dim] // len(kept)).view(shape)
            setattr(layer, name, nn.Parameter(masked, requires_grad=parameter.requires_grad))
