"""Linear and convolution layers whose units or filters carry gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.layers.gate import INITIAL_THETA, Gate


def make_gate(kind: str | Gate | None, size: int, dim: int, theta: float, where: str) -> Gate | None:
    """The gate that ``kind`` names or is.

    Args:
        kind: ``"unit"``, ``"layer"``, a gate, or ``None``.
        size: The number of outputs of the layer.
        dim: The dimension that they run along.
        theta: Initial inclusion probability.
        where: The layer's class, for messages.
    """
    if kind is None:
        return None
    if isinstance(kind, Gate):
        if kind.size not in (1, size):
            raise ConfigError(f"{where}: the gate must have size {size} (one gate an output) or 1, got {kind.size}")
        return kind
    if kind == "unit":
        return Gate(size, dim=dim, theta=theta)
    if kind == "layer":
        return Gate(1, per_batch=True, theta=theta)
    raise ConfigError(f"{where}: gate must be 'unit', 'layer' or None, got {kind!r}; or a Gate to share")


@contextmanager
def built(where: str, *sizes: Any) -> Iterator[None]:
    """Say in one line what torch cannot build a layer of.

    Args:
        where: The layer's class.
        sizes: What it is given.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        given = ", ".join(" ".join(repr(size).split()) for size in sizes)
        raise ConfigError(f"{where}({given}): torch cannot build it: {' '.join(str(error).split())}") from error


class GatedLayer(nn.Module):
    """What layers share whose outputs carry gates; goes before the torch layer that they extend.

    Attributes:
        gate: The gate, or ``None``.
        gate_dim: The dimension of the outputs that it runs along.

    Examples:
        >>> isinstance(Linear(3, 2, gate="unit"), GatedLayer)
        True
    """

    gate: Gate | None
    gate_dim = 1

    def forward(self, x: Tensor) -> Tensor:
        """ξ times what the torch layer gives, ξ ∘ (Wx + b)."""
        y = self.ungated(x)
        return y if self.gate is None else self.gate(y, self.gate_dim)

    def ungated(self, x: Tensor) -> Tensor:
        """What the gate multiplies."""
        return super().forward(x)  # type: ignore[no-any-return, misc]


class Linear(GatedLayer, nn.Linear):
    """`torch.nn.Linear` with a gate on every output unit (``gate="unit"``), on the whole layer (``"layer"``) or none.

    A `Gate` instead is shared with whatever else it is handed to; it brings its own ``theta``.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        bias: Whether the layer has a bias.
        gate: ``"unit"``, ``"layer"``, a `Gate` to share, or ``None``.
        theta: Initial inclusion probability.
        kwargs: Further arguments of `torch.nn.Linear`.

    Shape:
        input ``(B, ..., in_features)``, output ``(B, ..., out_features)``.

    Examples:
        >>> layer = Linear(3, 2, gate="unit")
        >>> layer.gate.size
        2

    Raises:
        ConfigError: for an unknown ``gate`` or one of another size, and for sizes that torch cannot build the layer of.
    """

    gate_dim = -1

    @checked_arguments
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        gate: str | Gate | None = None,
        theta: float = INITIAL_THETA,
        **kwargs: Any,
    ):
        with built("Linear", in_features, out_features):
            super().__init__(in_features, out_features, bias, **kwargs)
        self.gate = make_gate(gate, out_features, self.gate_dim, theta, "Linear")


class Conv1d(GatedLayer, nn.Conv1d):
    """`torch.nn.Conv1d` with a gate on every filter (``gate="unit"``), on the whole layer (``"layer"``) or none.

    A `Gate` instead is shared with whatever else it is handed to; it brings its own ``theta``.

    Args:
        args: Those of `torch.nn.Conv1d`.
        gate: ``"unit"``, ``"layer"``, a `Gate` to share, or ``None``.
        theta: Initial inclusion probability.
        kwargs: Those of `torch.nn.Conv1d`.

    Shape:
        input ``(B, in_channels, L)``, output ``(B, out_channels, L')``.

    Examples:
        >>> import torch
        >>> Conv1d(2, 4, 3, gate="unit")(torch.zeros(1, 2, 8)).shape
        torch.Size([1, 4, 6])

    Raises:
        ConfigError: for an unknown ``gate`` or one of another size, and for sizes that torch cannot build the layer of.
    """

    @checked_arguments
    def __init__(self, *args: Any, gate: str | Gate | None = None, theta: float = INITIAL_THETA, **kwargs: Any):
        with built("Conv1d", *args, *kwargs.values()):
            super().__init__(*args, **kwargs)
        self.gate = make_gate(gate, self.out_channels, self.gate_dim, theta, "Conv1d")


class Conv2d(GatedLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with a gate on every filter (``gate="unit"``), on the whole layer (``"layer"``) or none.

    A `Gate` instead is shared with whatever else it is handed to; it brings its own ``theta``.

    Args:
        args: Those of `torch.nn.Conv2d`.
        gate: ``"unit"``, ``"layer"``, a `Gate` to share, or ``None``.
        theta: Initial inclusion probability.
        kwargs: Those of `torch.nn.Conv2d`.

    Shape:
        input ``(B, in_channels, H, W)``, output ``(B, out_channels, H', W')``.

    Examples:
        >>> import torch
        >>> Conv2d(2, 4, 3, gate="layer")(torch.zeros(1, 2, 8, 8)).shape
        torch.Size([1, 4, 6, 6])

    Raises:
        ConfigError: for an unknown ``gate`` or one of another size, and for sizes that torch cannot build the layer of.
    """

    @checked_arguments
    def __init__(self, *args: Any, gate: str | Gate | None = None, theta: float = INITIAL_THETA, **kwargs: Any):
        with built("Conv2d", *args, *kwargs.values()):
            super().__init__(*args, **kwargs)
        self.gate = make_gate(gate, self.out_channels, self.gate_dim, theta, "Conv2d")
