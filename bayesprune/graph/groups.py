"""What goes together: every group of structures of a network, with what decides about it and what would go with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.graph.coupling import coupled
from bayesprune.graph.group import Group, Slice
from bayesprune.graph.tracing import trace
from bayesprune.layers import plain_parameters

HEAD = "gates", "structures", "written by", "read by", "parameters", "can go"
WIDEST = 60


class Groups(list[Group]):
    """The groups of a network; printed, they are a table with one row a group."""

    def __str__(self) -> str:
        rows = [HEAD, *map(_row, self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


@checked_arguments
def groups(net: nn.Module, *, example_input: Any = None) -> Groups:
    """All groups of structures of a network: those that gates decide about first, then those that none does.

    Args:
        net: A `BayesianNet`, or a network with or without gates.
        example_input: As for `check_gates`; ``None`` for that of the `BayesianNet`, if it was given one.

    Raises:
        TraceError: for a network whose forward pass cannot be followed.
        GateError: for a gate that does not fit what it gates.
    """
    inner = getattr(net, "gated_network", None)
    example = getattr(net, "example_input", None) if example_input is None else example_input
    plain = inner() if callable(inner) else net
    sizes = {name: p.shape for name, p in plain_parameters(plain).items()}
    total = max(1, sum(map(math.prod, sizes.values())))
    found = Groups()
    for group in coupled(trace(plain, example)):
        tensors = {part.tensor for part in group.slices} & sizes.keys()
        share = sum(_covered(sizes[name], group.slices, name) for name in tensors) / total
        found.append(replace(group, share=share))
    found.sort(key=lambda group: not group.gates)
    return found


def _covered(shape: torch.Size, slices: Sequence[Slice], name: str) -> float:
    """How many entries of a tensor lie in slices of it.

    Args:
        shape: Its shape.
        slices: Slices of it and of others.
        name: Its name.
    """
    outside = 1.0
    for part in slices:
        if part.tensor == name:
            outside *= float((part.structure < 0).double().mean())
    return math.prod(shape) * (1 - outside)


def _row(group: Group) -> tuple[str, ...]:
    listed = [_listed(names) for names in (group.gates, group.written, group.read)]
    verdict = "yes" if group.can_go else f"no: it {group.reason}"
    return listed[0], str(group.size), listed[1], listed[2], f"{group.share:.1%}", verdict


def _listed(names: Sequence[str]) -> str:
    """Names, as many as fit."""
    text, left = ", ".join(names), len(names)
    while len(text) > WIDEST and left > 1:
        left -= 1
        text = f"{', '.join(names[:left])} and {len(names) - left} more"
    return text or "-"
