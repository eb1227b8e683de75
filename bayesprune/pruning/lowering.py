"""What a gate or a gated layer is once its gates are decided: plain torch layers and functions."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.graph import Traced
from bayesprune.graph.memory import own_memory
from bayesprune.layers import SCALES, Gate, RecurrentLayer
from bayesprune.ops import operation_of
from bayesprune.pruning.zeros import mask_outputs


@torch.no_grad()
def plain_layer(layer: nn.Module) -> nn.Module:
    """The torch layer that a gated layer is at the mode of its gates and the mean of its weights.

    The weights of gates that are off are 0.
    """
    plain, gate = _without_gate(layer)
    if isinstance(gate, Gate) and not bool(gate.mode().all()):
        mask_outputs(plain, operation_of(layer), gate.mode())
    return plain


def _without_gate(layer: nn.Module) -> tuple[nn.Module, Any]:
    """The torch layer that a layer extends, with its weights, and its gate."""
    plain = copy.copy(layer)
    plain.__dict__ = {
        key: copy.copy(value) if isinstance(value, (dict, list)) else value for key, value in layer.__dict__.items()
    }
    plain.__class__ = next(base for base in type(layer).__mro__ if base.__module__.startswith("torch.nn.modules"))
    for name in SCALES:
        plain._parameters.pop(name, None)
    for name in ("draw", "_own", "handed"):
        plain.__dict__.pop(name, None)
    return plain, plain._modules.pop("gate", plain.__dict__.pop("gate", None))


@torch.no_grad()
def lower_recurrent(traced: Traced, node: fx.Node, layer: RecurrentLayer) -> None:
    """Replace a recurrent layer with a gate by torch's, which gives states besides; units that are off are not read.

    Args:
        traced: The network.
        node: The call.
        layer: The layer that it calls.
    """
    (plain, _), on = _without_gate(layer), layer.gate.values()
    if on is not None and not bool(on.all()):
        read = plain.get_parameter("weight_hh_l0")
        plain.weight_hh_l0 = nn.Parameter(read * on.to(read.dtype), requires_grad=read.requires_grad)
    traced.net.set_submodule(str(node.target), plain)
    with traced.graph.inserting_after(node):
        given = traced.graph.call_function(operator.getitem, (node, 0))
    node.replace_all_uses_with(given, lambda user: user is not given)


def lower_gate(traced: Traced, node: fx.Node, gate: Gate) -> None:
    """Replace a gate that stands alone by what it does at its mode.

    Args:
        traced: The network.
        node: The call.
        gate: The gate that it calls.
    """
    source: Any = node.args[0]
    on = gate.mode().bool()
    with traced.graph.inserting_before(node):
        if gate.index is not None:
            source = traced.graph.call_function(
                torch.index_select, (source, gate.dim, _buffer(traced, node, "index", gate.index))
            )
        if gate.size == 1 and not bool(on):
            if _leave_sums(traced, node):
                return
            source = traced.graph.call_function(torch.mul, (source, 0.0))
        elif not bool(on.all()):
            last = traced.graph.call_function(torch.transpose, (source, gate.dim, -1))
            mask = _buffer(traced, node, "mask", on)
            source = traced.graph.call_function(
                torch.transpose, (traced.graph.call_function(torch.mul, (last, mask)), gate.dim, -1)
            )
    if source is node.args[0]:
        own_memory(traced, node)
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def _leave_sums(traced: Traced, node: fx.Node) -> bool:
    """Take a branch that is off out of every sum that it is added in; whether nothing else used it.

    Args:
        traced: The network.
        node: The call of the branch's gate.
    """
    for user in list(node.users):
        operation = operation_of(user)
        if operation.adds and len(user.args) == 2 and not user.kwargs:
            first, second = user.args
            rest = first if second is node else second
            if isinstance(rest, fx.Node) and rest is not node and (second is node or operation.kind != "difference"):
                own_memory(traced, user)
                user.replace_all_uses_with(rest)
                traced.graph.erase_node(user)
    return not node.users


def _buffer(traced: Traced, node: fx.Node, kind: str, value: Tensor) -> fx.Node:
    """A node that gives a tensor, kept as buffer ``kind`` of an empty module in the place of the gate.

    A gate that belongs to a layer, too, gives its place up with it; the empty module then stands beside the network's
    own.

    Args:
        traced: The network.
        node: The call of the gate.
        kind: Name of the buffer.
        value: The tensor.
    """
    modules = dict(traced.net.named_modules())
    owner = modules[str(node.target).rpartition(".")[0]]
    place = f"{node.name}_{kind}" if operation_of(owner).parts is not None else str(node.target)
    if place not in modules or isinstance(modules[place], Gate):
        traced.net.set_submodule(place, nn.Module())
    traced.net.get_submodule(place).register_buffer(kind, value.clone())
    return traced.graph.get_attr(f"{place}.{kind}")


def lower_rate(traced: Traced, node: fx.Node) -> None:
    """Let attention be told that nothing is dropped, as in eval mode.

    Args:
        traced: The network.
        node: The call that gives the rate.
    """
    for user in list(node.users):
        user.kwargs = {name: 0.0 if value is node else value for name, value in user.kwargs.items()}
    traced.graph.erase_node(node)
