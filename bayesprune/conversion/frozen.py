"""Normalisations that compute with fixed statistics, whatever the mode of the network, written out as arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.conversion.modes import FOLLOWS, told_mode
from bayesprune.errors import TraceError
from bayesprune.graph import Traced

NORM = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
GIVEN = "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"
"""What `torch.nn.functional.batch_norm` is given, by place."""


def write_frozen(traced: Traced, kept: Collection[nn.Module]) -> None:
    """Let what normalises by fixed statistics multiply and add, so that it does so in training mode as well.

    Args:
        traced: The network, changed in place.
        kept: Modules that are in eval mode for good.

    Raises:
        TraceError: for such a module, if shapes are not known.
    """
    written = False
    for node in list(traced.graph.nodes):
        given = _given(traced, node, kept)
        if given is None or not isinstance(given.get("running_mean"), fx.Node):
            continue
        if node not in traced.shapes:
            raise TraceError(
                f"convert: {node.target} normalises by fixed statistics in training mode as well; give an example_input"
            )
        value = _arithmetic(traced, node, given)
        node.replace_all_uses_with(value)
        traced.graph.erase_node(node)
        del traced.shapes[node]
        written = True
    if written and traced.example is not None:
        traced.learn_shapes(traced.example)


def _given(traced: Traced, node: fx.Node, kept: Collection[nn.Module]) -> dict[str, Any] | None:
    """What a normalisation by fixed statistics is given, by name; ``None`` if the call is none.

    Args:
        traced: The network.
        node: The call.
        kept: Modules that are in eval mode for good.
    """
    if node.target is F.batch_norm and not node.meta.get(FOLLOWS, True) and not told_mode(node):
        return {**dict(zip(GIVEN, node.args, strict=False)), **node.kwargs}
    module: Any = traced.module(node)
    if type(module) not in NORM or module not in kept or module.running_mean is None:
        return None
    given: dict[str, Any] = {"input": node.args[0], "eps": module.eps}
    with traced.graph.inserting_before(node):
        for name in GIVEN[1:5]:
            if getattr(module, name) is not None:
                given[name] = traced.graph.get_attr(f"{node.target}.{name}")
    return given


def _arithmetic(traced: Traced, node: fx.Node, given: dict[str, Any]) -> fx.Node:
    """The same value, computed with a scale and a shift for each channel.

    Args:
        traced: The network.
        node: The call.
        given: What it is given, by name.
    """
    graph, sides = traced.graph, (-1, *[1] * (len(traced.shapes[node]) - 2))

    def made(function: Any, *args: Any) -> fx.Node:
        call = graph.call_function(function, args)
        call.meta = dict(node.meta)
        return call

    with graph.inserting_before(node):
        scale = made(torch.rsqrt, made(operator.add, given["running_var"], given.get("eps", 1e-5)))
        if given.get("weight") is not None:
            scale = made(operator.mul, scale, given["weight"])
        shift = made(operator.mul, given["running_mean"], scale)
        shift = made(torch.neg, shift) if given.get("bias") is None else made(operator.sub, given["bias"], shift)
        scaled = made(operator.mul, given["input"], made(torch.reshape, scale, sides))
        return made(operator.add, scaled, made(torch.reshape, shift, sides))
