"""Rules for operations that work entry by entry along the feature axis: activations, normalisation, pooling, sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.graph import operations as ops
from bayesprune.graph.calls import folds_constants, name_of
from bayesprune.graph.features import Features, Flow, Step, barrier

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
    """Constants go through ``function`` themselves."""
    return same(source, x, torch.where(x.unknown, torch.nan, function(x.value.clone())))


def prelu(node: fx.Node, module: nn.PReLU, source: fx.Node, x: Features) -> Step:
    """Zeros stay zeros; with one slope for all entries any constant goes through."""
    slopes = module.weight.detach().cpu().double()
    if len(slopes) == 1:
        return pointwise(source, x, lambda value: F.prelu(value, slopes))
    seen = x.along(1)
    if seen is None:
        return barrier(node, f"has its features along another dimension than {node.target} works along")
    return _resolved(source, seen, len(slopes), str(node.target), torch.where(seen.unknown, torch.nan, 0.0) * slopes)


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
        value = torch.where(value.isnan(), torch.nan, 0.0)
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
    return same(source, x, x.value if rate == 0 else torch.where(x.value == 0, 0.0, torch.nan))


def pool(node: fx.Node, source: fx.Node, x: Features, rank: int, options: Mapping[str, Any]) -> Step:
    """Constants stay, but for averages over a padded border."""
    if x.axis != 1 or x.rank not in (None, rank) or options.get("return_indices"):
        return barrier(node, f"reaches {name_of(node)}, which does not pool over the space of its maps here")
    padding = options.get("padding", 0)
    padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
    exact = not padded and options.get("divisor_override") is None
    exact = exact or "return_indices" in options  # a maximum is never taken over the padding
    step = same(source, x, x.value if exact else torch.where(x.value == 0, 0.0, torch.nan))
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


@torch.no_grad()
def binary(node: fx.Node, known: Known) -> Step:
    """A function of two tensors of equal features: their entries are tied, and 0 · anything is 0."""
    target: Any = node.target
    pair = [known[i] for i in node.all_input_nodes]
    if len(pair) != 2 or len(node.args) != 2 or any(not isinstance(a, fx.Node) for a in node.args):
        return barrier(node, f"reaches {name_of(node)} with arguments that are not two tensors")
    a, b = (known[i] for i in node.args)  # type: ignore[index]
    if a is None or b is None or not _aligned(a, b):
        return barrier(
            node, f"is combined by {name_of(node)} with a tensor of which less is known, or of another shape"
        )
    if node.op == "call_method":
        value = getattr(a.value, target)(b.value, **node.kwargs)
    else:
        value = target(a.value.clone(), b.value, **node.kwargs)
    value = torch.where(a.unknown | b.unknown, torch.nan, value)
    if node.target in ops.PRODUCTS:
        value = torch.where((a.value == 0) | (b.value == 0), 0.0, value)
    every = torch.arange(len(a))
    out = replace(a if a.rank is not None else b, ids=a.ids, value=value)
    return Step(out, flows=[Flow(i, every, every) for i in node.args], ties=[(a.ids, b.ids)])  # type: ignore[arg-type]


def _aligned(a: Features, b: Features) -> bool:
    """Whether two tensors have the same entries along the same axis."""
    same_axis = a.axis == b.axis or (a.along(b.axis) is not None and b.along(a.axis) is not None)
    same_layout = a.layout == b.layout and a.inner == b.inner
    return len(a) == len(b) and same_layout and same_axis and (a.rank == b.rank or None in (a.rank, b.rank))


def concatenate(node: fx.Node, known: Known) -> Step:
    """Entries one after another, when tensors are joined along their feature axis."""
    nodes = node.args[0] if node.args else ()
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    parts = [known[n] if isinstance(n, fx.Node) else None for n in nodes]  # type: ignore[union-attr, index]
    axes = [None if p is None or p.layout != "plain" else p.along(1 if dim == 1 else -1) for p in parts]
    if dim not in (1, -1) or any(p is None for p in axes):
        return barrier(node, f"reaches {name_of(node)}, which does not join known features along their dimension")
    features: list[Features] = [p for p in axes if p is not None]
    flows, start = [], 0
    for n, p in zip(nodes, features, strict=True):  # type: ignore[arg-type]
        flows.append(Flow(n, torch.arange(len(p)), torch.arange(start, start + len(p))))  # type: ignore[arg-type]
        start += len(p)
    out = Features(
        torch.cat([p.ids for p in features]), torch.cat([p.value for p in features]), features[0].axis, features[0].rank
    )
    return Step(out, flows=flows)


def reduce(node: fx.Node, known: Known) -> Step:
    """Mean or extremum over the space of maps."""
    source = node.all_input_nodes[0]
    x = known[source]
    assert x is not None
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    listed = [dims] if isinstance(dims, int) else list(dims) if isinstance(dims, (tuple, list)) else []
    if x.axis != 1 or x.rank is None or not listed or any(not isinstance(d, int) or d % x.rank < 2 for d in listed):
        return barrier(node, f"reaches {name_of(node)}, which does not run over the space of maps alone")
    step = same(source, x, x.value)
    step.out = Features(x.ids, x.value, 1, x.rank if keep else x.rank - len(listed))
    return step


def flatten(
    node: fx.Node, source: fx.Node, x: Features, start: Any, end: Any, shape: Sequence[int] | None = None
) -> Step:
    """All dimensions but the batch into one: every entry becomes r entries.

    Between the first and the last dimension, ``shape``, that of ``source``, must be known.
    """
    whole = start == 1 and (end == -1 or (x.rank is not None and end == x.rank - 1))
    if not whole:
        return barrier(node, f"reaches {name_of(node)}, which does not flatten all dimensions but the first")
    step = same(source, x, x.value)
    if x.rank == 2 or x.layout != "plain":
        return step
    if x.axis in (1, -1):
        step.out = replace(x, axis=1, rank=2, layout="blocks" if x.axis == 1 else "tiles")
    elif shape is None:
        return barrier(node, f"has its features along dimension {x.axis}, and is flattened; pass example_input=")
    else:
        step.out = replace(x, axis=1, rank=2, layout="between", inner=math.prod(shape[x.axis + 1 :]))
    return step


def flatten_dims(node: fx.Node) -> tuple[Any, Any]:
    """First and last dimension of a call of ``flatten``."""
    args = node.args[1:]
    start = node.kwargs.get("start_dim", args[0] if args else 0)
    return start, node.kwargs.get("end_dim", args[1] if len(args) > 1 else -1)
