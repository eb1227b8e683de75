"""A transposed convolution whose filters carry gates."""

from __future__ import annotations

from typing import Any

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.layers.gate import INITIAL_THETA, Gate
from bayesprune.layers.gated import GatedLayer, built, make_gate


class ConvTranspose2d(GatedLayer, nn.ConvTranspose2d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose2d` with a gate on every filter (``gate="unit"``), on the whole layer or none.

    A `Gate` instead is shared with whatever else it is handed to; it brings its own ``theta``.

    Args:
        args: Those of `torch.nn.ConvTranspose2d`.
        gate: ``"unit"``, ``"layer"``, a `Gate` to share, or ``None``.
        theta: Initial inclusion probability.
        kwargs: Those of `torch.nn.ConvTranspose2d`.

    Shape:
        input ``(B, in_channels, H, W)``, output ``(B, out_channels, H', W')``.

    Examples:
        >>> import torch
        >>> ConvTranspose2d(4, 2, 2, stride=2, gate="unit")(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 2, 16, 16])

    Raises:
        ConfigError: for an unknown ``gate`` or one of another size, for sizes that torch cannot build the
            layer of, and for gates in several groups that mix channels.
    """

    @checked_arguments
    def __init__(self, *args: Any, gate: str | Gate | None = None, theta: float = INITIAL_THETA, **kwargs: Any):
        with built("ConvTranspose2d", *args, *kwargs.values()):
            super().__init__(*args, **kwargs)
        if gate is not None and self.groups != 1 and not self.groups == self.in_channels == self.out_channels:
            raise ConfigError(
                "ConvTranspose2d: a layer with gates has one group, or one filter for each channel, got groups="
                f"{self.groups} for {self.in_channels} inputs and {self.out_channels} outputs"
            )
        self.gate = make_gate(gate, self.out_channels, self.gate_dim, theta, "ConvTranspose2d")
