"""Recurrent layers of one direction whose units do not read those that a gate switches off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError, GateError
from bayesprune.layers.gate import Gate


class RecurrentLayer(nn.Module):
    """What the layers share; goes before the torch layer that they extend.

    Each step reads the units of the step before, so a gate behind a layer alone would not be removal. Here the columns
    by which they are read are multiplied by its values, once for all steps, and torch's own kernel runs over them. The
    gate itself has to follow the layer in the network. One draw of it serves a whole batch.

    Attributes:
        gate: The gate.

    Examples:
        >>> gate = Gate(2, dim=-1, per_batch=True)
        >>> isinstance(LSTM(3, 2, gate=gate), RecurrentLayer)
        True
    """

    gate: Gate
    weight_hh_l0: Tensor

    @checked_arguments
    def __init__(self, input_size: int, hidden_size: int, *, gate: Gate, bias: bool = True, batch_first: bool = False):
        self._make(input_size, hidden_size, gate, bias=bias, batch_first=batch_first)

    def _make(self, input_size: int, hidden_size: int, gate: Gate, **options: Any) -> None:
        """Make torch's layer, and take a gate for its units.

        Args:
            input_size: Number of inputs.
            hidden_size: Number of units.
            gate: The gate.
            options: Of torch's layer.
        """
        kind = type(self).__name__
        size = whole(f"{kind}: hidden_size", hidden_size)
        super().__init__(whole(f"{kind}: input_size", input_size), size, **options)  # type: ignore[call-arg]
        if gate.size != size or not gate.per_batch:
            raise ConfigError(f"{kind}: the gate must have size {size}, and one draw a batch (per_batch), got {gate}")
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """What the units give at every step, from a state of zeros on.

        Args:
            x: Shape ``(T, B, input_size)``, or ``(B, T, input_size)`` with ``batch_first``.
        """
        layer: Any = self
        if x.dim() != 3:
            raise GateError(f"{type(self).__name__}: input must have 3 dimensions, got shape {tuple(x.shape)}")
        on = self.gate.values()
        if on is None:
            return super().forward(x)[0]  # type: ignore[no-any-return, misc]
        names = ["weight_ih_l0", "weight_hh_l0", *(["bias_ih_l0", "bias_hh_l0"] if layer.bias else [])]
        weights = [getattr(self, name) for name in names]
        weights[1] = weights[1] * on.to(weights[1].dtype)
        if x.is_cuda:  # cuDNN takes them one behind the other
            flat = torch.cat([weight.flatten() for weight in weights])
            parts = flat.split([weight.numel() for weight in weights])
            weights = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        state = x.new_zeros(1, x.shape[0 if layer.batch_first else 1], layer.hidden_size)
        kernel, given = _kernel(layer, state)
        return kernel(x, given, weights, layer.bias, 1, 0.0, self.training, False, layer.batch_first)[0]  # type: ignore[no-any-return]


class LSTM(RecurrentLayer, nn.LSTM):  # type: ignore[misc]
    """`torch.nn.LSTM` of one layer and one direction with a gate on its units; it gives outputs alone, not states.

    Args:
        input_size: Number of inputs.
        hidden_size: Number of units.
        gate: Their gate, with ``per_batch=True``, which is also called on what the layer gives.
        bias: Whether there are biases.
        batch_first: Whether examples are the first dimension, not the second.

    Examples:
        >>> gate = Gate(4, dim=-1, per_batch=True)
        >>> net = nn.Sequential(LSTM(6, 4, gate=gate), gate, nn.Linear(4, 2))
        >>> net(torch.zeros(5, 1, 6)).shape
        torch.Size([5, 1, 2])

    Raises:
        ConfigError: for sizes that are no whole numbers from 1 on, or a gate of another size or with a draw an example.
    """


class GRU(RecurrentLayer, nn.GRU):  # type: ignore[misc]
    """`torch.nn.GRU` of one layer and one direction with a gate on its units; it gives outputs alone, not states.

    Args:
        input_size: Number of inputs.
        hidden_size: Number of units.
        gate: Their gate, with ``per_batch=True``, which is also called on what the layer gives.
        bias: Whether there are biases.
        batch_first: Whether examples are the first dimension, not the second.

    Examples:
        >>> gate = Gate(4, dim=-1, per_batch=True)
        >>> nn.Sequential(GRU(6, 4, gate=gate), gate)(torch.zeros(5, 1, 6)).shape
        torch.Size([5, 1, 4])

    Raises:
        ConfigError: for sizes that are no whole numbers from 1 on, or a gate of another size or with a draw an example.
    """


class RNN(RecurrentLayer, nn.RNN):  # type: ignore[misc]
    """`torch.nn.RNN` of one layer and one direction with a gate on its units; it gives outputs alone, not states.

    Args:
        input_size: Number of inputs.
        hidden_size: Number of units.
        gate: Their gate, with ``per_batch=True``, which is also called on what the layer gives.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: Whether there are biases.
        batch_first: Whether examples are the first dimension, not the second.

    Examples:
        >>> gate = Gate(4, dim=-1, per_batch=True)
        >>> nn.Sequential(RNN(6, 4, gate=gate), gate)(torch.zeros(5, 1, 6)).shape
        torch.Size([5, 1, 4])

    Raises:
        ConfigError: for sizes that are no whole numbers from 1 on, another nonlinearity, or a gate of another size or
            with a draw an example.
    """

    @checked_arguments
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gate: Gate,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ConfigError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        self._make(input_size, hidden_size, gate, nonlinearity=nonlinearity, bias=bias, batch_first=batch_first)


def _kernel(layer: Any, state: Tensor) -> tuple[Callable[..., Any], Any]:
    """What runs over a sequence, and with which state it begins.

    Args:
        layer: The layer.
        state: Zeros.
    """
    if isinstance(layer, nn.LSTM):
        return torch.lstm, (state, state)
    if isinstance(layer, nn.GRU):
        return torch.gru, state
    return (torch.rnn_tanh if layer.nonlinearity == "tanh" else torch.rnn_relu), state
