"""Einstein summation: an entry's letter says where it goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.features import Features, Step
from bayesprune.ops.products import alone, if_known, summed, together
from bayesprune.ops.registry import Operation, register


def _letters(call: Call, nodes: list[Any]) -> tuple[list[str], str] | None:
    """The letters of every tensor and those of the result; ``None`` if they are not all written, or one twice.

    Args:
        call: The call.
        nodes: The tensors.
    """
    equation = call.node.args[0]
    if not isinstance(equation, str) or equation.count("->") != 1 or "." in equation:
        return None
    left, out = equation.replace(" ", "").split("->")
    terms = left.split(",")
    shapes = [len(call.shapes[node]) for node in nodes]
    once = all(len(set(term)) == len(term) for term in terms)
    return (terms, out) if once and list(map(len, terms)) == shapes else None


def _einsum(call: Call) -> Step:
    """A letter of several tensors ties their entries; it is one of the result, or summed over."""
    given = call.node.args[1:]
    nodes: list[Any] = list(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else list(given)
    if not all(isinstance(node, fx.Node) and node in call.shapes for node in (*nodes, call.node)):
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    letters = _letters(call, nodes)
    if letters is None:
        return call.wall()
    terms, out = letters
    found: dict[str, list[fx.Node]] = {}
    for node, term in zip(nodes, terms, strict=True):
        x = call.known[node]
        if x is not None and x.layout != "plain":
            return call.wall()
        if x is not None:
            found.setdefault(term[x.axis % len(term)], []).append(node)
    whole: dict[str, dict[fx.Node, Any]] = {
        letter: {node: call.known[node] for node in own}
        for letter, own in found.items()
        if len(own) == sum(letter in term for term in terms)
        and all(own.count(node) == nodes.count(node) for node in own)  # the same letter wherever a tensor is given
        and len({len(call.known[node] or ()) for node in own}) == 1
    }
    if not whole:
        return call.wall()
    letter = max(whole, key=lambda each: len(next(iter(whole[each].values()))))
    return _along(call, out.find(letter) - len(out) if letter in out else 0, whole[letter])


def _along(call: Call, place: int, parts: dict[fx.Node, Features]) -> Step:
    """What becomes of the entries along one letter; those along others stay.

    Args:
        call: The call.
        place: The dimension of the result, counted from the last; 0 if it is summed over.
        parts: The tensors that have it.
    """
    if not place:
        step = summed(call, parts)
    elif len(parts) == 1:
        return alone(call, next(iter(parts)), place, [node for node in call.node.all_input_nodes if node not in parts])
    else:
        zero = torch.stack([x.value == 0 for x in parts.values()]).any(0)
        step = together(call, list(parts), place, torch.where(zero, 0.0, torch.nan))
    step.pins = [node for node in call.node.all_input_nodes if node not in parts and call.known[node] is not None]
    step.reason = f"is multiplied by {call.name} with entries along another dimension" if step.pins else ""
    return step


register(
    Operation(
        name="Einstein summation",
        kind="product of matrices",
        functions=(torch.einsum,),
        entries=if_known(_einsum),
        takes="anything",
        files=True,
    )
)
