"""Operations that move, merge, add, drop or pick dimensions."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from bayesprune.ops.call import NEEDS_SHAPES, Call, argument
from bayesprune.ops.entrywise import same
from bayesprune.ops.features import Features, Step
from bayesprune.ops.registry import Operation, operation_of, register
from bayesprune.ops.sizes import is_batch_size, is_shape, read_sizes

EXAMPLES_DROPPED = (
    "which drops the dimension of examples where there is one alone, and a batch of one is not assumed (name another "
    "dimension, as x.squeeze(-1), or take the first example, as x[0])"
)


def _moved(call: Call, x: Features, axis: int, rank: int | None) -> Step:
    """Every entry stays what it is.

    Args:
        call: The call.
        x: What is known of its input.
        axis: The dimension that they run along from now on.
        rank: The number of dimensions from now on.
    """
    step = same(call.source, x, x.value)
    step.out = replace(x, axis=axis, rank=rank)
    return step


def _merge(call: Call, start: Any, end: Any) -> Step:
    """Several dimensions into one: if the axis is one of them, every entry becomes r entries.

    Args:
        call: The call.
        start: The first dimension.
        end: The last one.
    """
    x = call.x
    if x.layout != "plain" or x.rank is None:
        if (start, end) != (1, -1):
            return call.wall(f"reaches {call.name}, which does not flatten all dimensions but the first")
        if x.layout != "plain":
            return same(call.source, x, x.value)
        if x.axis not in (1, -1):
            return call.wall(f"has its features along dimension {x.axis}, and is flattened; {NEEDS_SHAPES}")
        return _moved(call, replace(x, layout="blocks" if x.axis == 1 else "tiles"), 1, 2)
    first, last, axis = start % x.rank, end % x.rank, x.axis % x.rank
    if first == 0 and last > 0:
        return call.wall(f"reaches {call.name}, which does not flatten all dimensions but the first")
    rank = x.rank - (last - first)
    if axis < first or first == last:
        return _moved(call, x, axis, rank)
    if axis > last:
        return _moved(call, x, axis - (last - first), rank)
    if axis in (first, last):
        return _moved(call, replace(x, layout="blocks" if axis == first else "tiles"), first, rank)
    return call.wall(f"has its features along dimension {x.axis}, and is flattened; {NEEDS_SHAPES}")


def _flatten(call: Call) -> Step:
    module: Any = call.module
    return _merge(call, *(flatten_dims(call.node) if module is None else (module.start_dim, module.end_dim)))


def flatten_dims(node: fx.Node) -> tuple[Any, Any]:
    """First and last dimension of a call of ``flatten`` as a function or a method."""
    return argument(node, "start_dim", 1, 0), argument(node, "end_dim", 2, -1)


def _reshape(call: Call) -> Step:
    """``x.view(x.size(0), -1)`` in one of its spellings flattens."""
    sizes = call.node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    if len(sizes) == 2 and is_batch_size(sizes[0]) and sizes[1:] == (-1,):
        return _merge(call, 1, -1)
    reason = f"reaches {call.name} with sizes that are written out or computed in forward, not flattened"
    return call.wall(reason if call.shapes else f"{reason}; {NEEDS_SHAPES}, or reshape with torch.flatten(x, 1)")


def _transpose(call: Call) -> Step | None:
    """Two dimensions change places."""
    x = call.x
    if x.layout != "plain":
        return None
    if x.rank is None:
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    order = list(range(x.rank))
    a, b = call.option("dim0", 1), call.option("dim1", 2)
    if not isinstance(a, int) or not isinstance(b, int):
        return None
    order[a], order[b] = order[b], order[a]
    return _ordered(call, x, order)


def _permute(call: Call) -> Step | None:
    """All dimensions are put in another order."""
    given = call.option("dims", 1, ())
    listed = given if isinstance(given, (tuple, list)) else call.node.args[1:]
    dims = [dim for dim in listed if isinstance(dim, int)]
    if call.x.layout != "plain" or len(dims) != len(listed):
        return None
    return _ordered(call, replace(call.x, rank=len(dims)), [dim % len(dims) for dim in dims])


def _ordered(call: Call, x: Features, order: list[int]) -> Step | None:
    return _moved(call, x, order.index(x.axis % len(order)), len(order)) if order[0] == 0 else None


def _squeeze(call: Call) -> Step | None:
    """A dimension of size 1 is dropped."""
    x, dim, shape = call.x, call.option("dim", 1), call.shapes.get(call.source)
    if dim is None or dim == 0:
        return call.wall(f"reaches squeeze{'()' if dim is None else '(0)'}, {EXAMPLES_DROPPED}")
    if not isinstance(dim, int) or x.layout != "plain":
        return None
    if x.rank is None or shape is None:
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    axis, place = x.axis % x.rank, dim % x.rank
    if place in (0, axis):
        return None
    dropped = shape[place] == 1
    return _moved(call, x, axis - (dropped and place < axis), x.rank - dropped)


def _unsqueeze(call: Call) -> Step | None:
    """A dimension of size 1 is added."""
    x, dim = call.x, call.option("dim", 1)
    if not isinstance(dim, int) or x.layout != "plain":
        return None
    if x.rank is None:
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    axis, place = x.axis % x.rank, dim % (x.rank + 1)
    return _moved(call, x, axis + (place <= axis), x.rank + 1) if place else None


def _pick(call: Call) -> Step | None:
    """A part of a tensor, of a shape, or of an extremum with its places."""
    node = call.node
    source = node.args[0]
    if _takes_values(call):
        return same(call.source, call.x, call.x.value)
    if is_shape(node):
        return read_sizes(call)
    if all(call.known[i] is None for i in node.all_input_nodes):
        return Step()
    plain = len(node.all_input_nodes) == 1 and isinstance(source, fx.Node) and node.target is operator.getitem
    if not plain or operation_of(source).kind == "extremum":  # type: ignore[arg-type]
        return None
    return _index(call)


def _takes_values(call: Call) -> bool:
    """Whether the values of an extremum along a dimension are taken, which come with indices."""
    node = call.node
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or operation_of(source).kind != "extremum" or call.known.get(source) is None:
        return False
    return node.args[1] in (0, "values")


def _index(call: Call) -> Step | None:
    """Dimensions of size 1 are added, and other dimensions than that of the features picked from: ``x[:, :, None]``."""
    x, given = call.x, call.node.args[1]
    keys: list[Any] = list(given) if isinstance(given, tuple) else [given]
    plain = all(key is None or key is ... or isinstance(key, slice) or type(key) is int for key in keys)
    if x.layout != "plain" or not plain:
        return None
    if x.rank is None:
        return call.wall(f"reaches {call.name} of a tensor of unknown rank; {NEEDS_SHAPES}")
    missing = [slice(None)] * (x.rank - sum(key is not None and key is not ... for key in keys))
    place = keys.index(...) if ... in keys else len(keys)
    keys[place : place + 1] = missing
    axis = x.axis % x.rank
    taken = [i for i, key in enumerate(keys) if key is not None]  # the places of the dimensions that there were
    if taken[0] != 0 or any(keys[taken[dim]] != slice(None) for dim in (0, axis)):
        return None
    kept = [i for i, key in enumerate(keys) if type(key) is not int]
    return _moved(call, x, kept.index(taken[axis]), len(kept))


register(
    Operation(
        name="flatten",
        modules=(nn.Flatten,),
        functions=(torch.flatten,),
        methods=("flatten",),
        entries=_flatten,
        moves=True,
        memory="view",
        arguments=("start_dim", "end_dim"),
        files=True,
    )
)
register(
    Operation(
        name="reshape",
        functions=(torch.reshape,),
        methods=("reshape", "view"),
        entries=_reshape,
        takes="sizes",
        moves=True,
        sizes=slice(1, None),
        memory="view",
        files=True,
    )
)
for _name, _functions, _rule in (
    ("transpose", (torch.transpose, torch.swapaxes, torch.swapdims), _transpose),
    ("permute", (torch.permute,), _permute),
    ("squeeze", (torch.squeeze,), _squeeze),
    ("unsqueeze", (torch.unsqueeze,), _unsqueeze),
):
    register(
        Operation(
            name=_name,
            functions=_functions,
            methods=tuple(function.__name__ for function in _functions),
            entries=_rule,
            moves=True,
            memory="view",
            files=True,
        )
    )
register(
    Operation(
        name="indexing, or an attribute of a tensor",
        functions=(operator.getitem, getattr),
        entries=_pick,
        takes="anything",
        moves=True,
        sizes=slice(1, 2),
        memory="view",
        files=True,
    )
)
