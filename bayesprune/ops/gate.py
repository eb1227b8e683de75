"""Gates that stand alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from bayesprune.errors import GateError
from bayesprune.layers import Gate
from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import same, silenced, zeros_alone
from bayesprune.ops.features import Features, Flow, Step
from bayesprune.ops.registry import Operation, Parts, Role, operation_of, register


def _gate(call: Call) -> Step:
    """A gate silences entries of one axis; along another than the one that is followed it only keeps zeros zero."""
    gate, source, following = call.module, call.source, call.following
    x, off = call.known[source], following.off.get(gate)
    if gate.size == 1 and gate.index is None:
        if x is None:
            return Step()
        return same(source, x, torch.zeros_like(x.value) if off is not None and bool(off.all()) else x.value)
    rank = call.rank(source) or (following.only or {}).get(gate) or gate.rank
    if x is not None and x.rank is None:
        x = replace(x, rank=rank)
    if gate.dim == 0 or (rank is not None and gate.dim % rank == 0):
        return call.wall(f"is gated along dimension {gate.dim}, the examples of a batch")
    if following.only is not None and gate not in following.only:
        return Step() if x is None else _background(call, x)
    if gate.within and not following.parts and (x is None or x.along(gate.dim) is None):
        following.put_off[gate] = rank or 0
        return Step() if x is None else _background(call, x)
    if x is None:
        value = torch.full((gate.size,), torch.nan, dtype=torch.float64)
        return Step(Features(following.fresh(gate.size), silenced(value, off), gate.dim, rank), selects=True)
    seen = x.along(gate.dim)
    if seen is None or (x.rank is None and seen.rank == 2 and _other_axis(call, source)):
        if x.rank is None:
            where = f"along dimension {x.axis} and then {gate.dim} of a tensor of unknown rank"
            return call.wall(f"is gated {where}; {NEEDS_SHAPES}")
        if following.parts:
            return call.wall(f"is gated along dimension {gate.dim}, but cut along dimension {x.axis}")
        following.put_off[gate] = x.rank
        return _background(call, x)
    src = _gated_entries(call, seen, x.rank is None)
    out = Features(following.fresh(gate.size), silenced(x.value[src], off), seen.axis, seen.rank)
    return Step(out, flows=[Flow(source, src, torch.arange(gate.size))], selects=True)


def _background(call: Call, x: Features) -> Step:
    """A gate that is followed by another reading: along another axis, it leaves of all constants the zeros."""
    if x.along(call.module.dim) is not None:
        return call.wall(f"reaches {call.name}, a gate along the same dimension that is followed apart")
    return same(call.source, x, zeros_alone(x.value))


def _other_axis(call: Call, source: fx.Node) -> bool:
    """Whether features of a tensor of unknown rank, gated along their own axis before, are not a gate's."""
    while len(source.all_input_nodes) == 1:
        module = call.modules.get(source)
        if isinstance(module, Gate) or operation_of(source, module).linear:
            break
        source = source.all_input_nodes[0]
    return isinstance(call.modules.get(source), Gate)


def _gated_entries(call: Call, x: Features, assumed: bool) -> Tensor:
    """Which entry of ``x`` each of the gates multiplies.

    Args:
        call: The call of the gate.
        x: What is known of its input, seen along its axis.
        assumed: Whether the rank of the input is not known.
    """
    gate: Gate = call.module
    size = gate.in_size
    count, rest = divmod(size, len(x))
    if rest or (x.layout == "plain" and count != 1):
        raise GateError(
            f"gate {call.name!r} has {size} entries, but what it gates has {len(x)} features"
            + (" (times the size of the map)" if x.layout != "plain" else "")
            + "; make the gate's size equal to the number of features or channels before it"
            + (", or, if it runs along another dimension, " + NEEDS_SHAPES if assumed else "")
        )
    entries = x.entries(size, call.name)
    return entries if gate.index is None else entries[gate.index.cpu()]


def _select(gate: Gate, read: Tensor, stays: Tensor) -> Mapping[Role, Tensor]:
    """Where its input keeps more entries than its output, it selects.

    Args:
        gate: The gate.
        read: Which entries of its input stay, bool.
        stays: Which of its own stay, bool.
    """
    index = torch.arange(gate.in_size) if gate.index is None else gate.index.cpu()
    chosen = (read.cumsum(0) - 1)[index[stays]]
    gate.index = None if int(stays.sum()) == int(read.sum()) else chosen.to(gate.theta.device)
    return {}


def _parts(gate: Gate) -> Parts:
    return Parts({"theta": ("out",)}, {"size": "out", "in_size": "in"})


register(Operation(name="gate", modules=(Gate,), entries=_gate, takes="anything", parts=_parts, cut=_select))
