"""Torch's recurrent cells, which a loop calls step by step, written out so that their units can be followed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def write_cells(net: nn.Module) -> None:
    """Let each of torch's cells, which is one call that stays closed, be one whose forward pass can be followed.

    Args:
        net: The network, changed in place.
    """
    for module in list(net.modules()):
        if type(module) in CELLS:
            _write(module)


def _write(cell: Any) -> None:
    """Let two linear maps hold the weights of a cell: one of what it is given and one of its last state.

    Args:
        cell: Torch's, changed in place.
    """
    for part in ("ih", "hh"):
        weight = getattr(cell, f"weight_{part}")
        linear = nn.Linear(weight.shape[1], weight.shape[0], cell.bias, device="meta").train(cell.training)
        linear.weight = weight
        if cell.bias:
            linear.bias = getattr(cell, f"bias_{part}")
        for name in ("weight", "bias"):
            delattr(cell, f"{name}_{part}")
        cell.add_module(part, linear)
    cell.__class__ = CELLS[type(cell)]


class _Cell(nn.Module):
    """A cell that is written out."""

    ih: nn.Module
    hh: nn.Module

    def __getattr__(self, name: str) -> Any:
        """Weights and biases by the names that torch's cells have for them, which a model may read."""
        kind, _, part = name.rpartition("_")
        if kind in ("weight", "bias") and part in ("ih", "hh"):
            return getattr(getattr(self, part), kind)
        return super().__getattr__(name)


class LSTMCell(_Cell, nn.LSTMCell):
    """What torch's computes, for several examples or for one."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next state of units and cells.

        Args:
            input: What it is given, shape ``(B, inputs)`` or ``(inputs,)``.
            hx: The last state of units and cells, each of shape ``(B, units)`` or ``(units,)``; ``None`` for zeros.
        """
        given = self.ih(input)
        h, c = 2 * (torch.zeros_like(given.chunk(4, -1)[0]),) if hx is None else hx
        into, forget, new, out = (given + self.hh(h)).chunk(4, -1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(into) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(c), c


class GRUCell(_Cell, nn.GRUCell):
    """What torch's computes, for several examples or for one."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state.

        Args:
            input: What it is given, shape ``(B, inputs)`` or ``(inputs,)``.
            hx: The last state, shape ``(B, units)`` or ``(units,)``; ``None`` for zeros.
        """
        given = self.ih(input).chunk(3, -1)
        h = torch.zeros_like(given[0]) if hx is None else hx
        held = self.hh(h).chunk(3, -1)
        reset, update = torch.sigmoid(given[0] + held[0]), torch.sigmoid(given[1] + held[1])
        return (1 - update) * torch.tanh(given[2] + reset * held[2]) + update * h


class RNNCell(_Cell, nn.RNNCell):
    """What torch's computes, for several examples or for one."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state.

        Args:
            input: What it is given, shape ``(B, inputs)`` or ``(inputs,)``.
            hx: The last state, shape ``(B, units)`` or ``(units,)``; ``None`` for zeros.
        """
        activation = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        given = self.ih(input)
        return activation(given + self.hh(torch.zeros_like(given) if hx is None else hx))


CELLS: dict[type[nn.Module], type[_Cell]] = {nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell, nn.RNNCell: RNNCell}
