"""Recurrent layers, whose inputs go with what makes them, and whose units read each other from step to step.

A gate behind one of torch's silences a unit where it is read next, not where the layer itself reads it: its units stay.
Those of `layers.RecurrentLayer` go with the gate that does both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.layers import GRU, LSTM, RNN, Gate
from bayesprune.ops.call import Call
from bayesprune.ops.features import Features, Read, Step, barrier
from bayesprune.ops.registry import Gives, Operation, Parts, Role, register

SIZES = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
CELL = ("input_size", "hidden_size", "bias")
FIRST = "weight_ih_l0"
"""Of the weights that a layer has for its input; with ``_reverse`` behind it those of the other direction."""


def _drops(module: Any) -> bool:
    """Whether a layer has dropout within."""
    return bool(module.dropout > 0)


def _recurrent(call: Call) -> Step:
    """All that is given depends on every entry of the sequence."""
    x = call.known[call.source]
    if x is None:
        return Step()
    seen = x.along(-1)
    if seen is None:
        return call.wall(f"has its features along another dimension than {call.name} reads")
    seen.entries(call.module.input_size, call.name)
    reason = "" if call.module.bias else f"{call.name} has no bias to take up the constant that is left"
    must = ~x.unknown & (x.value != 0) if reason else torch.zeros(len(x), dtype=torch.bool)
    return Step(reads=[Read(call.source, must, reason)])


def _silenced(call: Call) -> Step:
    """A unit that is off is read by no other; one that is on is, whatever follows, and stays."""
    module = call.module
    if all(other is not module.gate for other in call.modules.values()):
        return barrier(
            call.node, f"is read behind {call.name} as well, where the gate has to be called on what that gives"
        )
    step = _recurrent(call)
    if call.following.layers:
        ids = call.following.fresh(module.hidden_size)
        step.out = Features(ids, torch.full((len(ids),), torch.nan, dtype=torch.float64), -1, 3)
        step.holds.append(ids[_may_be_on(module.gate, call.following.off.get(module.gate))])
    return step


def _may_be_on(gate: Gate, off: Tensor | None) -> Tensor:
    """Which of the entries that a gate is given it does not silence, bool.

    Args:
        gate: The gate.
        off: Which of its own are off, bool; ``None`` for none.
    """
    on = torch.ones(gate.size, dtype=torch.bool) if off is None else ~off.cpu()
    if gate.index is None:
        return on
    return torch.zeros(gate.in_size, dtype=torch.bool).index_copy(0, gate.index.cpu(), on)


def _units(module: nn.Module) -> Parts:
    """Each unit has a row for each of its inner gates, and a column by which others read it."""
    roles: dict[str, tuple[Role, ...]] = {"weight_ih_l0": ("out", "in"), "weight_hh_l0": ("out", "out")}
    if module.bias:
        roles |= {"bias_ih_l0": ("out",), "bias_hh_l0": ("out",)}
    return Parts(roles, {"input_size": "in", "hidden_size": "out"})


def _inputs(module: nn.Module) -> Parts:
    """The weights for the input are cut, all others not."""
    roles: dict[str, tuple[Role, ...]] = {
        name: (None, "in") if name.startswith(FIRST) else () for name, _ in module.named_parameters()
    }
    return Parts(roles, {"input_size": "in"})


@torch.no_grad()
def _fold(module: Any, constants: Tensor) -> list[str]:
    """Add what constant inputs contribute to the biases of the input, in float64.

    Args:
        module: The layer.
        constants: The value of each input that is to go, 0 for the others, shape ``(n_in,)``.

    Returns:
        The attributes that changed.
    """
    if not module.bias or not bool(constants.any()):
        return []
    names = [name for name, _ in module.named_parameters() if name.startswith(FIRST)]
    for name in names:
        weight, bias = getattr(module, name), getattr(module, name.replace("weight", "bias"))
        bias.copy_(bias.double() + weight.double() @ constants.to(weight.device))
    return [name.replace("weight", "bias") for name in names]


_LAYERS: tuple[tuple[type[nn.Module], str, Gives], ...] = (
    (nn.LSTM, "proj_size", ("tensor", ["tensor"])),
    (nn.GRU, "", ("tensor", "tensor")),
    (nn.RNN, "nonlinearity", ("tensor", "tensor")),
)
for _module, _more, _gives in _LAYERS:
    register(
        Operation(
            name=_module.__name__,
            modules=(_module,),
            entries=_recurrent,
            takes="anything",
            parts=_inputs,
            fold=_fold,
            random=_drops,
            gives=_gives,
            arguments=(*SIZES, *filter(None, [_more])),
        )
    )
for _module in (LSTM, GRU, RNN):
    register(
        Operation(
            name=f"{_module.__name__} with a gate on its units",
            modules=(_module,),
            entries=_silenced,
            takes="anything",
            parts=_units,
            fold=_fold,
            memory="own",
        )
    )
_CELLS: tuple[tuple[type[nn.Module], str, Gives], ...] = (
    (nn.LSTMCell, "", ["tensor"]),
    (nn.GRUCell, "", "tensor"),
    (nn.RNNCell, "nonlinearity", "tensor"),
)
for _module, _more, _gives in _CELLS:
    register(
        Operation(name=_module.__name__, modules=(_module,), arguments=(*CELL, *filter(None, [_more])), gives=_gives)
    )
