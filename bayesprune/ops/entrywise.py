"""What rules of operations share that work entry by entry along the feature axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, fx

from bayesprune.ops.call import Call
from bayesprune.ops.features import Features, Flow, Step


def silenced(value: Tensor, off: Tensor | None) -> Tensor:
    """``value`` with zeros where gates are off.

    Args:
        value: Constants, shape ``(n,)``.
        off: Where gates are off, shape ``(n,)``, bool; ``None`` for nowhere.
    """
    return value if off is None else torch.where(off.cpu(), 0.0, value)


def zeros_alone(value: Tensor) -> Tensor:
    """Of constants the zeros; all others are no constants any more."""
    return torch.where(value == 0, value, torch.nan)


def same(source: fx.Node, x: Features, value: Tensor) -> Step:
    """Every output entry is computed from the same entry of the input.

    Args:
        source: The input.
        x: What is known of it.
        value: What its constants become, shape ``(n,)``.
    """
    every = torch.arange(len(x))
    return Step(replace(x, value=value), flows=[Flow(source, every, every)])


def resolved(call: Call, x: Features, size: int, become: Callable[[Tensor], Tensor]) -> Step:
    """Entry by entry as `same`, after a flattened tensor has got its number of entries.

    Args:
        call: The call.
        x: What is known of its input, seen along the axis that it works along.
        size: The number of entries that the input has.
        become: What becomes of its constants, shape ``(size,)``.
    """
    index = x.entries(size, call.name)
    out = Features(x.ids[index], become(x.value[index]), x.axis, x.rank)
    return Step(out, flows=[Flow(call.source, index, torch.arange(size))])


@torch.no_grad()
def pointwise(call: Call) -> Step:
    """Constants go through the operation itself; those that it makes infinite or undefined are no constants."""
    x = call.x
    numbers = {other: call.constants[other].double() for other in call.node.all_input_nodes[1:]}
    value = torch.where(x.unknown, torch.nan, call.run({call.source: x.value.clone(), **numbers}))
    return same(call.source, x, torch.where(value.isinf(), torch.nan, value))
