"""Rules for operations on the space of maps that leave their channels: resampling, padding, shuffled pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bayesprune.ops.axes import NEEDS_SHAPES
from bayesprune.ops.calls import name_of
from bayesprune.ops.entrywise import same
from bayesprune.ops.features import Features, Flow, Step, barrier


def resample(node: fx.Node, source: fx.Node, x: Features) -> Step:
    """Interpolation over space: the weights add up to 1, so that constants stay."""
    if x.axis != 1 or x.layout != "plain" or x.rank == 2:
        return barrier(node, f"reaches {name_of(node)}, which does not work over the space of maps here")
    return same(source, x, x.value)


def pad(node: fx.Node, source: fx.Node, x: Features, widths: Any, mode: str, value: Any) -> Step:
    """Padding of other dimensions: a constant stays if it is what is padded with, or if a border is repeated."""
    widths = list(widths) if isinstance(widths, (tuple, list)) else [widths] * 2
    if x.rank is None or x.layout != "plain" or not all(isinstance(width, int) for width in widths):
        return barrier(node, f"reaches {name_of(node)}; {NEEDS_SHAPES}")
    padded = {x.rank - 1 - i // 2 for i, width in enumerate(widths) if width}
    if {0, x.axis % x.rank} & padded:
        return barrier(node, f"reaches {name_of(node)}, which pads along its features, by a width written in forward")
    if mode != "constant":
        return same(source, x, x.value)
    return same(source, x, torch.where(x.value == float(value or 0), x.value, torch.nan))


def pixel_shuffle(node: fx.Node, source: fx.Node, x: Features, factor: Any) -> Step:
    """r² channels become one: they go together."""
    if x.axis != 1 or x.layout != "plain" or not isinstance(factor, int) or len(x) % factor**2:
        return barrier(node, f"reaches {name_of(node)}, which does not shuffle its channels in whole groups")
    r = factor**2
    groups = x.value.unflatten(0, (-1, r))
    value = torch.where((groups == groups[:, :1]).all(1), groups[:, 0], torch.nan)
    every, first = torch.arange(len(value)), x.ids[::r]
    flows = [Flow(source, every * r + k, every) for k in range(r)]
    return Step(replace(x, ids=first, value=value), flows=flows, ties=[(first, x.ids[k::r]) for k in range(1, r)])


def pixel_unshuffle(node: fx.Node, source: fx.Node, x: Features, factor: Any) -> Step:
    """One channel becomes r²."""
    if x.axis != 1 or x.layout != "plain" or not isinstance(factor, int):
        return barrier(node, f"reaches {name_of(node)}, which does not shuffle channels")
    index = torch.arange(len(x)).repeat_interleave(factor**2)
    out = replace(x, ids=x.ids[index], value=x.value[index])
    return Step(out, flows=[Flow(source, index, torch.arange(len(index)))])
