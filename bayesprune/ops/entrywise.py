"""Rules for operations that work entry by entry along the feature axis: activations, normalisation, pooling, sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.ops.calls import folds_constants, name_of
from bayesprune.ops.features import Features, Flow, Step, barrier

Known = Mapping[fx.Node, Features | None]


def silenced(value: Tensor, off: Tensor | None) -> Tensor:
    """``value`` with zeros where gates are off."""
    return value if off is None else torch.where(off.cpu(), 0.0, value)


def same(source: fx.Node, x: Features, value: Tensor) -> Step:
    """Every output entry is computed from the same entry of ``x``; constants become ``value``."""
    every = torch.arange(len(x))
    return Step(replace(x, value=value), flows=[Flow(source, every, every)])


@torch.no_grad()
def pointwise(source: fx.Node, x: Features, function: Callable[[Tensor], Tensor]) -> Step:
    """Constants go through ``function`` themselves; those that it makes infinite or undefined are no constants."""
    value = torch.where(x.unknown, torch.nan, function(x.value.clone()))
    return same(source, x, torch.where(value.isinf(), torch.nan, value))


def prelu(node: fx.Node, module: nn.PReLU, source: fx.Node, x: Features) -> Step:
    """A constant goes through with the slope of its entry."""
    slopes = module.weight.detach().cpu().double()
    if len(slopes) == 1:
        return pointwise(source, x, lambda value: F.prelu(value, slopes))
    seen = x.along(1)
    if seen is None:
        return barrier(node, f"has its features along another dimension than {node.target} works along")
    value = seen.value[seen.entries(len(slopes), str(node.target))]
    return _resolved(source, seen, len(slopes), str(node.target), torch.where(value > 0, value, value * slopes))


def _resolved(source: fx.Node, x: Features, size: int, where: str, value: Tensor) -> Step:
    """Entry by entry as `same`, after a flattened tensor has got its number of entries."""
    index = x.entries(size, where)
    out = Features(x.ids[index], value, x.axis, x.rank)
    return Step(out, flows=[Flow(source, index, torch.arange(size))])


@torch.no_grad()
def batch_norm(node: fx.Node, module: nn.BatchNorm2d, source: fx.Node, x: Features) -> Step:
    """A constant c comes out as β + γ (c − mean) / std in eval mode, and as β where batch statistics are used."""
    seen = x.along(1)
    if seen is None:
        return barrier(node, f"has its features along another dimension than {node.target} works along")
    size = module.num_features
    value = seen.value[seen.entries(size, str(node.target))]
    if module.running_mean is None or module.running_var is None:
        value = value * 0
    else:
        value = (value - module.running_mean.cpu().double()) / (module.running_var.cpu().double() + module.eps).sqrt()
    if module.affine:
        value = value * module.weight.cpu().double() + module.bias.cpu().double()
    return _resolved(source, seen, size, str(node.target), value)


@torch.no_grad()
def depthwise(node: fx.Node, layer: Any, source: fx.Node, x: Features | None) -> Step:
    """One filter for each channel: a constant c comes out as c Σw + b where the borders do not matter."""
    if x is None:
        return Step()
    if x.axis != 1 or x.rank not in (None, layer.weight.dim()):
        return barrier(node, f"has its features along another dimension than {node.target} reads")
    weight = layer.weight.cpu().double().flatten(1).sum(1)
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias.cpu().double()
    value = x.value[x.entries(len(weight), str(node.target))]
    known = (value == 0) | torch.tensor(folds_constants(layer))
    step = _resolved(source, x, len(weight), str(node.target), torch.where(known, value * weight + bias, torch.nan))
    step.out = Features(step.out.ids, step.out.value, 1, layer.weight.dim())  # type: ignore[union-attr]
    return step


def dropout(source: fx.Node, x: Features, rate: float) -> Step:
    """Zeros stay zeros; another constant is a random number while training."""
    return same(source, x, x.value if rate == 0 else torch.where(x.value == 0, x.value, torch.nan))


def pool(node: fx.Node, source: fx.Node, x: Features, rank: int, options: Mapping[str, Any]) -> Step:
    """Constants stay, but for averages over a padded border."""
    if x.axis != 1 or x.rank not in (None, rank) or options.get("return_indices"):
        return barrier(node, f"reaches {name_of(node)}, which does not pool over the space of its maps here")
    padding = options.get("padding", 0)
    padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
    exact = not padded and options.get("divisor_override") is None
    exact = exact or "return_indices" in options  # a maximum is never taken over the padding
    step = same(source, x, x.value if exact else torch.where(x.value == 0, x.value, torch.nan))
    step.out = Features(x.ids, step.out.value, 1, rank)  # type: ignore[union-attr]
    return step


def pool_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a pooling function that decide what it does to constants."""
    padded = {"padding": 1} if len(node.args) > 3 else {}  # given by position: taken for a padding
    return {**padded, **node.kwargs}


def elementwise(node: fx.Node, known: Known) -> Step:
    """A function of one tensor and numbers."""
    source = node.all_input_nodes[0]
    x = known[source]
    assert x is not None
    target: Any = node.target

    def function(value: Tensor) -> Tensor:
        args = fx.node.map_arg(node.args, lambda _: value.clone())
        kwargs = fx.node.map_arg(node.kwargs, lambda _: value.clone())
        return getattr(args[0], target)(*args[1:], **kwargs) if node.op == "call_method" else target(*args, **kwargs)

    return pointwise(source, x, function)
