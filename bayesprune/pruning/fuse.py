"""Linear maps that follow one another become one, where that is exact and costs no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bayesprune.graph import Traced
from bayesprune.graph.calls import sole_input
from bayesprune.ops import operation_of
from bayesprune.ops.axes import flatten_dims
from bayesprune.ops.convolution import folds_constants

NORMS = {nn.Linear: nn.BatchNorm1d, nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
AVERAGES: dict[type[nn.Module], tuple[type[nn.Module], type[nn.Module]]] = {  # over the space of their maps
    nn.Conv1d: (nn.AvgPool1d, nn.AdaptiveAvgPool1d),
    nn.Conv2d: (nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    nn.Conv3d: (nn.AvgPool3d, nn.AdaptiveAvgPool3d),
}

FLATTEN = operation_of(nn.Flatten())


def fuse_linear_maps(traced: Traced) -> None:
    """Fuse layers whose output only another layer reads, and let averages over maps go before 1x1 convolutions.

    Pairs that become one layer, the first before the second:

    - ``Linear``, ``Linear``, with a flattening of all dimensions but the first in between or without;
    - 1x1 convolution of stride 1, flattening, ``Linear``;
    - any convolution, 1x1 convolution of any stride without padding;
    - 1x1 convolution of stride 1 without padding, any convolution; if that one pads with zeros, the first without bias.

    Weights are multiplied in float64 and rounded once. The layer that is left has the name of the second. Pairs stay
    where one layer would have more parameters or multiply-adds than two, and where either of the two is shared or
    has groups, or only one is frozen.
    """
    for node in list(traced.graph.nodes):
        while _average_first(traced, node) or _fuse_with_source(traced, node):
            pass


def fold_batch_norms(traced: Traced) -> None:
    """Fold every BatchNorm in eval mode into the layer before it, if nothing else reads that layer's output.

    A BatchNorm behind a ``Linear`` is taken for one of inputs ``(B, F)``.
    """
    for node in list(traced.graph.nodes):
        norm: Any = traced.module(node)
        source = sole_input(traced, node)
        if type(norm) not in NORMS.values() or source is None or _serves_others(traced, node):
            continue
        layer = _layer(traced, source)
        fits = layer is not None and len(source.users) == 1 and NORMS[type(layer)] is type(norm)
        if not fits or norm.running_mean is None or not norm.affine:
            continue
        dtype, helper = layer.weight.dtype, fuse_linear_bn_eval if type(layer) is nn.Linear else fuse_conv_bn_eval
        fused = helper(layer.double().eval(), norm.double().eval()).to(dtype)
        fused.bias.requires_grad_(fused.weight.requires_grad)
        traced.net.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)


def _serves_others(traced: Traced, node: fx.Node) -> bool:
    """Whether what a call calls is called elsewhere as well, or its parameters are used there."""
    return str(node.target) in traced.fixed or str(node.target) in traced.repeated


def _layer(traced: Traced, node: Any) -> Any:
    """The ``Linear`` or convolution that ``node`` calls, if that may be replaced by another one.

    Args:
        traced: The network.
        node: A call, or what else an argument may be.
    """
    if not isinstance(node, fx.Node) or sole_input(traced, node) is None or _serves_others(traced, node):
        return None
    layer: Any = traced.module(node)
    return layer if type(layer) in NORMS else None


def _average_first(traced: Traced, node: fx.Node) -> bool:
    """Let an average that does not enlarge maps go before the 1x1 convolution whose output it alone reads.

    Args:
        traced: The network.
        node: The call.
    """
    source: Any = sole_input(traced, node)
    layer = _layer(traced, source)
    if type(layer) not in AVERAGES or len(source.users) != 1 or not _is_pointwise(layer):
        return False
    pool: Any = traced.module(node)
    average, adaptive = AVERAGES[type(layer)]
    if type(pool) is average:
        exact = not any(_each(pool.padding)) and getattr(pool, "divisor_override", None) is None
    else:
        exact = type(pool) is adaptive and set(_each(pool.output_size)) == {1}
    if exact:
        node.replace_all_uses_with(source)
        node.args, source.args = source.args, (node,)
        source.prepend(node)
    return exact


def _fuse_with_source(traced: Traced, node: fx.Node) -> bool:
    """Fuse the layer that ``node`` calls with the one whose output it alone reads, through a flattening or not.

    Args:
        traced: The network.
        node: The call.
    """
    later = _layer(traced, node)
    if later is None:
        return False
    source: Any = node.args[0]
    path = [node]
    if type(later) is nn.Linear and _flattens(traced, source):
        path, source = [source, node], source.args[0]
    first = _layer(traced, source)
    if first is None or any(len(n.users) != 1 for n in (source, *path[:-1])):
        return False
    if not _exact(first, later, len(path) == 2) or not _affordable(first, later):
        return False
    traced.net.set_submodule(str(node.target), _fused(first, later))
    for moved in path:  # to where the first layer was: its input may be overwritten later on
        source.prepend(moved)
    path[0].args = (*source.args, *path[0].args[1:])
    traced.graph.erase_node(source)
    return True


def _flattens(traced: Traced, node: Any) -> bool:
    """Whether ``node`` flattens all dimensions but the first.

    Args:
        traced: The network.
        node: The call.
    """
    module: Any = traced.module(node)
    if type(module) is nn.Flatten:
        return sole_input(traced, node) is not None and (module.start_dim, module.end_dim) == (1, -1)
    return operation_of(node) is FLATTEN and bool(node.args) and flatten_dims(node) == (1, -1)


# the algebra --------------------------------------------------------------------------------------------------------


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _is_1x1(layer: Any) -> bool:
    """Whether a convolution mixes channels at single positions, none of them padding."""
    padded = not isinstance(layer.padding, str) and any(layer.padding)
    return set(layer.kernel_size) == {1} and not padded


def _is_pointwise(layer: Any) -> bool:
    """Whether a convolution mixes channels at every position."""
    return _is_1x1(layer) and set(layer.stride) == {1}


def _exact(first: Any, later: Any, flattened: bool) -> bool:
    """Whether one layer can compute what two do, borders included.

    Args:
        first: The layer whose output the other reads.
        later: The other.
        flattened: Whether all dimensions but the first are flattened in between.
    """
    a, b = first.weight, later.weight
    if (a.dtype, a.device, a.requires_grad) != (b.dtype, b.device, b.requires_grad):
        return False
    if getattr(first, "groups", 1) != 1 or getattr(later, "groups", 1) != 1:
        return False
    if type(later) is nn.Linear:
        return later.in_features % len(a) == 0 and (type(first) is nn.Linear or (flattened and _is_pointwise(first)))
    if type(first) is not type(later):
        return False
    if _is_1x1(later):
        return first.padding != "same" or set(later.stride) == {1}
    biased = first.bias is not None and bool(first.bias.any())
    return _is_pointwise(first) and (not biased or folds_constants(later))


def _affordable(first: Any, later: Any) -> bool:
    """Whether one layer has no more parameters and multiply-adds than two, whatever the size of the maps.

    Args:
        first: The layer whose output the other reads.
        later: The other.
    """
    middle = len(first.weight)
    weights = (later.weight.numel() // middle) * (first.weight.numel() // middle)
    biases = [0 if layer.bias is None else len(layer.bias) for layer in (first, later)]
    params = weights + (len(later.weight) if any(biases) else 0)
    if params > first.weight.numel() + later.weight.numel() + sum(biases):
        return False
    saved = 0 if _enlarges(later) else first.weight.numel()  # the first layer works at as many positions, or more
    return weights <= later.weight.numel() + saved


def _enlarges(layer: Any) -> bool:
    """Whether a convolution of stride 1 would give larger maps than it is given."""
    if type(layer) is nn.Linear or isinstance(layer.padding, str):
        return False
    return any(2 * p > d * (k - 1) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True))


@torch.no_grad()
def _fused(first: Any, later: Any) -> nn.Module:
    """The layer that does what the two do.

    Args:
        first: The layer whose output the other reads.
        later: The other.
    """
    linear, dtype = type(later) is nn.Linear, later.weight.dtype
    inner = first.weight.double().reshape(*first.weight.shape[:2], -1)  # middle, inputs, taps
    outer = later.weight.double().flatten(1)
    if type(first) is nn.Linear:  # flattened with its outputs last
        outer = outer.unflatten(1, (-1, len(inner))).transpose(1, 2)
    else:
        outer = outer.unflatten(1, (len(inner), -1))
    weight = torch.einsum("omt,mis->oits", outer, inner).flatten(2)  # the one or the other has one tap
    options: dict[str, Any] = {"bias": first.bias is not None or later.bias is not None, "device": "meta"}
    if linear:
        weight = (weight.transpose(1, 2) if type(first) is nn.Linear else weight).flatten(1)
        fused: Any = nn.Linear(weight.shape[1], len(weight), **options)
    else:
        shape = first if _is_1x1(later) else later
        stride = tuple(a * b for a, b in zip(first.stride, later.stride, strict=True))
        size = weight.shape[1], len(weight), shape.kernel_size
        options |= {"padding": shape.padding, "dilation": shape.dilation, "padding_mode": shape.padding_mode}
        fused = type(later)(*size, stride, **options)
        weight = weight.unflatten(2, shape.kernel_size)
    weight = weight.to(dtype).clone(memory_format=torch.contiguous_format)
    fused.weight = nn.Parameter(weight, requires_grad=later.weight.requires_grad)
    if fused.bias is not None:
        bias = torch.zeros(len(outer), dtype=torch.float64, device=outer.device)
        if first.bias is not None:
            bias += outer.sum(2) @ first.bias.double()
        if later.bias is not None:
            bias += later.bias.double()
        fused.bias = nn.Parameter(bias.to(dtype), requires_grad=later.weight.requires_grad)
    return fused
