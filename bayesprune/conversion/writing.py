"""Writing over a part of a tensor, ``x[key] = value``, as a new tensor made of what is left and what is written.

Torch writes into memory, which views of the tensor see. None of them may be read afterwards, see `Written`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.conversion.modes import UNSEEN, passes_gradient_by
from bayesprune.conversion.sharing import sharing
from bayesprune.graph import Traced
from bayesprune.ops import operation_of

Part = tuple[int, Any, Any]
"""Of a dimension the part that is written: the dimension, where it begins and where it ends."""


def with_part(x: Any, key: Any, value: Any) -> Any:
    """What a tensor is after a part of it was written over.

    Args:
        x: The tensor, a value of a traced forward pass that is known for examples.
        key: The part, of slices and numbers; or a mask of whole ``x``, for a number.
        value: What is written.
    """
    if isinstance(key, fx.Proxy) and not isinstance(value, fx.Proxy):
        return x.masked_fill(key, value)
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(isinstance(each, (int, slice)) or each is ... for each in keys):
        raise fx.proxy.TraceError("a part of a tensor is written over that neither slices nor numbers tell")
    place = keys.index(...) if ... in keys else len(keys)
    keys[place : place + 1] = [slice(None)] * (x.ndim - len(keys) + (... in keys))
    parts: list[Part] = []
    for dim, each in enumerate(keys):
        if isinstance(each, int):
            parts.append((dim, each, each + 1 if each != -1 else None))
        elif each.step not in (None, 1):
            raise fx.proxy.TraceError("a part of a tensor is written over by steps")
        elif each != slice(None):
            parts.append((dim, each.start, each.stop))
    if any(_is_empty(x, part) for part in parts):
        return x
    target = x[key]
    if not isinstance(value, (fx.Proxy, Tensor)):
        value = torch.full_like(target, value)
    else:
        if not _alike(value, target, "shape"):
            value = value.expand_as(target)
        if not _alike(value, target, "dtype"):
            value = value.to(target.dtype)
    for dim in [dim for dim, each in enumerate(keys) if isinstance(each, int)]:
        value = value.unsqueeze(dim)
    return _put_together(x, parts, value)


def _is_empty(x: Any, part: Part) -> bool:
    """Whether a part of a tensor is none of it.

    Args:
        x: The tensor.
        part: The part.

    Raises:
        TraceError: if that may follow from the number of examples.
    """
    dim, start, stop = part
    if not isinstance(start, int) or not isinstance(stop, int) or start == 0:
        return False
    if (start < 0) == (stop < 0):
        return stop <= start
    sizes = [value.shape[dim] for value in x.seen.values]
    if len(set(sizes)) > 1:
        raise fx.proxy.TraceError("which part of a tensor is written over follows from the number of examples")
    return not range(sizes[0])[slice(start, stop)]


def _alike(a: Any, b: Any, attribute: str) -> bool:
    """Whether an attribute of two tensors is the same for all examples.

    Args:
        a: A value of the pass, or a tensor.
        b: Another value.
        attribute: Its name.
    """
    count = len(b.seen.values)
    pairs = zip(a.seen.values if isinstance(a, fx.Proxy) else [a] * count, b.seen.values, strict=True)  # type: ignore[attr-defined]
    return all(getattr(one, attribute) == getattr(other, attribute) for one, other in pairs)


def _put_together(x: Any, parts: Sequence[Part], value: Any) -> Any:
    """A tensor with other values in a part.

    Args:
        x: The tensor.
        parts: The dimensions of which not all is written.
        value: The values.
    """
    if not parts:
        return value.clone()
    (dim, start, stop), *rest = parts

    def piece(*bounds: Any) -> Any:
        key = [slice(None)] * dim + [slice(*bounds)]
        return x[tuple(key)]

    pieces = [_put_together(piece(start, stop), rest, value)]
    if start not in (None, 0):
        pieces.insert(0, piece(None, start))
    if stop is not None:
        pieces.append(piece(stop, None))
    return torch.cat(pieces, dim) if len(pieces) > 1 else pieces[0]


def _is_part(given: Sequence[Any], node: fx.Node) -> bool:
    """Whether the first argument of a call is a part of a tensor.

    Args:
        given: The argument, if there is one.
        node: What gives the tensor.
    """
    views = [each for each in given if isinstance(each, fx.Node) and operation_of(each).memory == "view"]
    return any(each.all_input_nodes[:1] == [node] for each in views)


class Written:
    """What was written over while a forward pass was traced, and what therefore must not be read.

    Attributes:
        stale: Calls whose results have changed since.
    """

    def __init__(self) -> None:
        self.stale: set[fx.Node] = set()
        self._before: list[tuple[Any, fx.Node, Any, set[fx.Node]]] = []

    def write(self, x: Any, key: Any, value: Any) -> None:
        """Let a value of the pass stand for what it is after a part of it was written over.

        Args:
            x: The value.
            key: The part.
            value: What is written.
        """
        if passes_gradient_by(x.node, not torch.is_grad_enabled(), x.dtype):
            raise fx.proxy.TraceError(f"a part of a tensor is written over {UNSEEN}")
        traced = Traced(x.tracer.root, x.tracer.graph, {})
        aliases = sharing(traced, x.node)
        if any(node.op in ("placeholder", "get_attr") for node in aliases):
            raise fx.proxy.TraceError("a part of an input, parameter or buffer is written over")
        if isinstance(value, fx.Proxy) and _is_part(value.node.args[:1], x.node):
            plain = operation_of(value.node).inplace.get(value.node.target)  # type: ignore[arg-type]
            value.node.target = value.node.target if plain is None else plain  # as in x[key] += 1
        result = with_part(x, key, value)
        if result is x:
            return
        self._before.append((x, x.node, x.seen, aliases - self.stale))
        self.stale |= aliases
        x.node, x.seen = result.node, result.seen

    def check(self, value: Any) -> None:
        """Refuse what shares memory with something that was written over since.

        Args:
            value: What is read.
        """
        met: list[fx.Proxy] = []
        fx.node.map_aggregate(value, lambda part: met.append(part) if isinstance(part, fx.Proxy) else None)
        if not self.stale.isdisjoint(proxy.node for proxy in met):
            raise fx.proxy.TraceError("what shares memory with a tensor that was written over in part is read again")

    def forget(self, nodes: Sequence[fx.Node]) -> None:
        """Take back what was written in the course of calls that are taken back, the latest ones."""
        x: Any
        while self._before and self._before[-1][0].node in nodes:
            x, x.node, x.seen, aliases = self._before.pop()
            self.stale -= aliases
