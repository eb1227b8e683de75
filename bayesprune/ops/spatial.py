"""Operations on the space of maps that leave their channels: resampling, padding, shuffled pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import same
from bayesprune.ops.features import Flow, Step
from bayesprune.ops.registry import Operation, register


def _resample(call: Call) -> Step:
    """Interpolation over space: the weights add up to 1, so that constants stay."""
    x = call.x
    if x.axis != 1 or x.layout != "plain" or x.rank == 2:
        return call.wall(f"reaches {call.name}, which does not work over the space of maps here")
    return same(call.source, x, x.value)


def _pad(call: Call, widths: Any, mode: str, value: Any) -> Step:
    """Padding of other dimensions: a constant stays if it is what is padded with, or if a border is repeated."""
    x = call.x
    widths = list(widths) if isinstance(widths, (tuple, list)) else [widths] * 2
    if x.rank is None or x.layout != "plain" or not all(isinstance(width, int) for width in widths):
        return call.wall(f"reaches {call.name}; {NEEDS_SHAPES}")
    padded = {x.rank - 1 - i // 2 for i, width in enumerate(widths) if width}
    if {0, x.axis % x.rank} & padded:
        return call.wall(f"reaches {call.name}, which pads along its features, by a width written in forward")
    if mode != "constant":
        return same(call.source, x, x.value)
    return same(call.source, x, torch.where(x.value == float(value or 0), x.value, torch.nan))


def _pad_function(call: Call) -> Step:
    return _pad(call, call.option("pad", 1), call.option("mode", 2) or "constant", call.option("value", 3))


def _pad_module(mode: str) -> Callable[[Call], Step]:
    return lambda call: _pad(call, call.module.padding, mode, getattr(call.module, "value", None))


def _pixel_shuffle(call: Call) -> Step:
    """r² channels become one: they go together."""
    x, factor = call.x, call.option("upscale_factor", 1)
    if x.axis != 1 or x.layout != "plain" or not isinstance(factor, int) or len(x) % factor**2:
        return call.wall(f"reaches {call.name}, which does not shuffle its channels in whole groups")
    r = factor**2
    groups = x.value.unflatten(0, (-1, r))
    value = torch.where((groups == groups[:, :1]).all(1), groups[:, 0], torch.nan)
    every, first = torch.arange(len(value)), x.ids[::r]
    flows = [Flow(call.source, every * r + k, every) for k in range(r)]
    return Step(replace(x, ids=first, value=value), flows=flows, ties=[(first, x.ids[k::r]) for k in range(1, r)])


def _pixel_unshuffle(call: Call) -> Step:
    """One channel becomes r²."""
    x, factor = call.x, call.option("downscale_factor", 1)
    if x.axis != 1 or x.layout != "plain" or not isinstance(factor, int):
        return call.wall(f"reaches {call.name}, which does not shuffle channels")
    index = torch.arange(len(x)).repeat_interleave(factor**2)
    out = replace(x, ids=x.ids[index], value=x.value[index])
    return Step(out, flows=[Flow(call.source, index, torch.arange(len(index)))])


register(
    Operation(
        name="upsample",
        modules=(nn.Upsample,),
        functions=(F.interpolate, F.upsample),
        entries=_resample,
        takes="sizes",
        arguments=("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
        files=True,
    )
)
register(
    Operation(
        name="upsample 2d",
        modules=(nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        entries=_resample,
        arguments=("size", "scale_factor"),
    )
)
for _mode, _modules, _arguments in (
    ("constant", (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), ("padding",)),
    ("constant", (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), ("padding", "value")),
    ("reflect", (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), ("padding",)),
    ("replicate", (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), ("padding",)),
    ("circular", (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), ("padding",)),
):
    _name = _modules[0].__name__.removesuffix("1d")
    register(Operation(name=_name, modules=_modules, entries=_pad_module(_mode), arguments=_arguments))
register(Operation(name="pad", functions=(F.pad,), entries=_pad_function, files=True))
register(
    Operation(
        name="pixel shuffle",
        modules=(nn.PixelShuffle,),
        functions=(F.pixel_shuffle,),
        entries=_pixel_shuffle,
        moves=True,
        arguments=("upscale_factor",),
        files=True,
    )
)
register(
    Operation(
        name="pixel unshuffle",
        modules=(nn.PixelUnshuffle,),
        functions=(F.pixel_unshuffle,),
        entries=_pixel_unshuffle,
        moves=True,
        arguments=("downscale_factor",),
        files=True,
    )
)
