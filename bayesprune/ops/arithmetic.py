"""Sums, products and other functions of two tensors, also with numbers, parameters and masks."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
from torch import Tensor, fx

from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import pointwise, same, zeros_alone
from bayesprune.ops.features import Features, Flow, Step
from bayesprune.ops.registry import Kind, Operation, operation_of, register


@torch.no_grad()
def _binary(call: Call) -> Step | None:
    """A function of two tensors of equal features: their entries are tied, and 0 · anything is 0."""
    node, known = call.node, call.known
    inputs = node.all_input_nodes
    if all(known[i] is None for i in inputs):
        return Step()
    if len(inputs) == 1:
        return pointwise(call)
    first, second = node.args if len(node.args) == 2 else (None, None)
    if len(inputs) != 2 or not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return call.wall(f"reaches {call.name} with arguments that are not two tensors")
    a, b = known[first], known[second]
    if a is None or b is None:
        return _with_unknown(call, second, first) if a is None else _with_unknown(call, first, second)
    if "get_attr" in (first.op, second.op) and first.op != second.op:
        return _with_parameter(call, second, first) if first.op == "get_attr" else _with_parameter(call, first, second)
    if not _aligned(a, b):
        return call.wall(f"is combined by {call.name} with a tensor of which less is known, or of another shape")
    value = torch.where(a.unknown | b.unknown, torch.nan, call.run({first: a.value.clone(), second: b.value}))
    if operation_of(node).kind == "product":
        value = torch.where((a.value == 0) | (b.value == 0), 0.0, value)
    every = torch.arange(len(a))
    out = replace(a if (a.rank or 0) >= (b.rank or 0) else b, ids=a.ids, value=value)
    if out.rank is None and a.axis != b.axis:
        out = replace(out, rank=2)  # the first dimension and the last are one in a matrix alone
    return Step(out, flows=[Flow(first, every, every), Flow(second, every, every)], ties=[(a.ids, b.ids)])


def _aligned(a: Features, b: Features) -> bool:
    """Whether two tensors have the same entries along the same axis, seen from the last if their ranks differ."""
    if a.rank is not None and b.rank is not None and a.layout == b.layout == "plain":
        return len(a) == len(b) and a.axis % a.rank - a.rank == b.axis % b.rank - b.rank
    same_axis = a.axis == b.axis or (a.along(b.axis) is not None and b.along(a.axis) is not None)
    return len(a) == len(b) and a.layout == b.layout and same_axis and (a.rank == b.rank or None in (a.rank, b.rank))


def _combined(call: Call, value: Tensor) -> Tensor | None:
    """What of constants is left in a product or a sum with something that is not known."""
    operation = operation_of(call.node)
    if operation.kind == "product":
        return zeros_alone(value)
    return torch.full_like(value, torch.nan) if operation.adds else None


def _with_unknown(call: Call, source: fx.Node, other: fx.Node) -> Step:
    """With a tensor of unknown features, which is one and the same for all entries.

    Args:
        call: The call.
        source: Its tensor with known features.
        other: The other one.
    """
    x, shapes = call.known[source], call.shapes
    assert x is not None
    value = _combined(call, x.value)
    if value is None or x.layout != "plain":
        return call.wall(f"is combined by {call.name} with a tensor of which less is known, or of another shape")
    if other in shapes and len(shapes[other]) <= 1 and shapes[other].numel() == 1:
        return same(source, x, value)
    rank = call.rank(source) if source.op == "get_attr" else x.rank
    if rank is None or other not in shapes:
        reason = f"is combined by {call.name} with a tensor of which less is known"
        return call.wall(reason if shapes else f"{reason}; {NEEDS_SHAPES}")
    axis, shape = x.axis % rank - rank, shapes[other]
    grows = len(shape) > rank and source.op != "get_attr"
    if grows or (len(shape) >= -axis and shape[axis] != 1):
        along = "a tensor along its features, from which nothing is removed"
        return call.wall(f"is combined by {call.name} with {along}")
    rank = max(rank, len(shape))
    return same(source, replace(x, axis=rank + axis, rank=rank), value)


def _with_parameter(call: Call, source: fx.Node, other: fx.Node) -> Step:
    """With a parameter or buffer that has one entry for each feature, which is cut with them.

    Args:
        call: The call.
        source: Its tensor that is computed.
        other: The parameter.
    """
    x, p = call.known[source], call.known[other]
    assert x is not None and p is not None
    value, seen = _combined(call, x.value), x.along(p.axis)
    fits = seen is not None and len(p) % len(x) == 0 and (x.layout != "plain" or len(p) == len(x))
    if value is None or seen is None or not fits or (p.axis != -1 and x.rank is None):
        return call.wall(f"is combined by {call.name} with {other.target}, which does not run along its features")
    index, every = seen.entries(len(p), call.node.name), torch.arange(len(p))
    out = Features(p.ids, value[index], seen.axis, seen.rank)
    return Step(out, flows=[Flow(source, index, every), Flow(other, every, every)], ties=[(p.ids, x.ids[index])])


_KINDS: tuple[tuple[Kind, str], ...] = (("sum", "add"), ("difference", "sub"), ("product", "mul"))
for _kind, _name in _KINDS:
    _function = getattr(operator, _name)
    register(
        Operation(
            name=f"{_kind} of two tensors",
            functions=(_function, getattr(torch, _name)),
            methods=(_name,),
            inplace={getattr(operator, f"i{_name}"): _function},
            entries=_binary,
            takes="anything",
            kind=_kind,
            memory="own",
            files=True,
        )
    )
register(
    Operation(
        name="quotient, maximum or minimum of two tensors",
        functions=(operator.truediv, torch.div, torch.maximum, torch.minimum),
        methods=("div", "maximum", "minimum"),
        inplace={operator.itruediv: operator.truediv},
        entries=_binary,
        takes="anything",
        memory="own",
        files=True,
    )
)
