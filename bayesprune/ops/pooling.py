"""Pooling over the space of maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.ops.call import Call
from bayesprune.ops.entrywise import same, zeros_alone
from bayesprune.ops.features import Features, Step
from bayesprune.ops.registry import Operation, register

MAXIMUM = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
ADAPTIVE_MAXIMUM = ("output_size", "return_indices")


def _pool(rank: int) -> Callable[[Call], Step]:
    """The rule of pools whose input has ``rank`` dimensions: constants stay, but for averages over a padded border."""

    def entries(call: Call) -> Step:
        x, options = call.x, _options(call)
        if x.axis != 1 or x.rank not in (None, rank) or options.get("return_indices"):
            return call.wall(f"reaches {call.name}, which does not pool over the space of its maps here")
        padding = options.get("padding", 0)
        padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
        exact = not padded and options.get("divisor_override") is None
        exact = exact or "return_indices" in options  # a maximum is never taken over the padding
        step = same(call.source, x, x.value if exact else zeros_alone(x.value))
        step.out = Features(x.ids, step.out.value, 1, rank)  # type: ignore[union-attr]
        return step

    return entries


def _options(call: Call) -> Mapping[str, Any]:
    """The arguments that decide what becomes of constants."""
    if call.module is not None:
        return vars(call.module)
    padded = {"padding": 1} if len(call.node.args) > 3 else {}  # given by position: taken for a padding
    return {**padded, **call.node.kwargs}


def _places(count: int) -> Callable[[fx.Node, Any], Any]:
    """What maxima give: also their places if they are asked for, as one more than ``count`` arguments or by name."""

    def gives(node: fx.Node, module: Any) -> Any:
        given = len(node.args) > count or node.kwargs.get("return_indices", False) is not False
        asked = given if module is None else module.return_indices
        return ["tensor"] if asked else "tensor"

    return gives


def _register(kind: str, dims: int, arguments: tuple[str, ...], *functions: Callable[..., Any]) -> None:
    """Register the pools of one kind over so many dimensions.

    Args:
        kind: As in the names of torch's classes.
        dims: Number of dimensions of space.
        arguments: Constructor arguments of the class.
        functions: Functions that compute it.
    """
    name = f"{kind}{dims}d"
    module = getattr(nn, name)
    entries = _pool(dims + 2)
    register(
        Operation(
            name=name,
            modules=(module,),
            functions=functions,
            entries=entries,
            memory="own",
            gives=_places(len(arguments)) if "return_indices" in arguments else "tensor",
            arguments=arguments,
            files=True,
        )
    )


_register("MaxPool", 1, MAXIMUM, F.max_pool1d, torch.max_pool1d)
_register("MaxPool", 2, MAXIMUM, F.max_pool2d, torch.max_pool2d)
_register("MaxPool", 3, MAXIMUM, F.max_pool3d, torch.max_pool3d)
_register("AvgPool", 1, AVERAGE, F.avg_pool1d)
_register("AvgPool", 2, (*AVERAGE, "divisor_override"), F.avg_pool2d)
_register("AvgPool", 3, (*AVERAGE, "divisor_override"), F.avg_pool3d)
_register("AdaptiveAvgPool", 1, ("output_size",), F.adaptive_avg_pool1d)
_register("AdaptiveAvgPool", 2, ("output_size",), F.adaptive_avg_pool2d)
_register("AdaptiveAvgPool", 3, ("output_size",), F.adaptive_avg_pool3d)
_register("AdaptiveMaxPool", 1, ADAPTIVE_MAXIMUM, F.adaptive_max_pool1d)
_register("AdaptiveMaxPool", 2, ADAPTIVE_MAXIMUM, F.adaptive_max_pool2d)
_register("AdaptiveMaxPool", 3, ADAPTIVE_MAXIMUM, F.adaptive_max_pool3d)
