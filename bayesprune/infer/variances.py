"""The variances of Normal weights, computed once for all passes between two steps of log σ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.layers import NormalLayer

MANY_WEIGHTS = 2**14
"""From how many weights on the products of a linear layer are faster in bfloat16, where the processor has it."""


class Variances:
    """σ² of all Normal weights, which their layers are given for passes of training.

    Args:
        layers: The layers with Normal weights.

    Attributes:
        values: σ² of weights and bias of one layer after another; empty while the layers compute them in every pass.
    """

    def __init__(self, layers: Iterable[NormalLayer]):
        self.layers = list(layers)
        self.values: list[Tensor] = []
        self._learnt = False

    def give(self, log_scales: list[nn.Parameter], learn: bool) -> None:
        """Give the layers their variances, computed anew only if log σ may have taken a step.

        Args:
            log_scales: Log σ of weights and bias of one layer after another.
            learn: Whether log σ takes a step after this pass; otherwise it gets no gradient.
        """
        if not learn and not self._learnt and self.values:
            return  # they have them
        if self._learnt or not self.values:
            with torch.no_grad():
                binary = [log_scale * (2 / math.log(2)) for log_scale in log_scales]  # exp takes thrice as long as exp2
                self.values = [exponent.exp2_() for exponent in binary]
        given = [v.to(f) for v, f in zip(self.values, self._formats(), strict=True)]
        if learn:
            given = [_Variance.apply(*three) for three in zip(log_scales, self.values, given, strict=True)]
        self._learnt = learn
        parts = iter(given)
        for layer in self.layers:
            layer.handed = next(parts), None if layer.bias is None else next(parts)

    def drop(self) -> None:
        """Let the layers compute their variances in every pass."""
        self.values, self._learnt = [], False
        for layer in self.layers:
            layer.handed = None

    def _formats(self) -> list[torch.dtype]:
        """In which format each variance is given: how much noise an output gets need not be known to 24 bits."""
        formats = []
        for layer in self.layers:
            large = not isinstance(layer, nn.Linear) or layer.weight.numel() >= MANY_WEIGHTS
            short = large and layer.weight.dtype == torch.float32 and _fast_bfloat16(layer.weight.device)
            formats += [torch.bfloat16 if short else layer.weight.dtype] * (1 if layer.bias is None else 2)
        return formats


class _Variance(torch.autograd.Function):
    """σ² that is known already, as a function of log σ; ``given`` is the same in the format of the result."""

    @staticmethod
    def forward(ctx: Any, log_scale: Tensor, variance: Tensor, given: Tensor) -> Tensor:
        ctx.save_for_backward(variance)
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (variance,) = ctx.saved_tensors
        return (grad * variance).mul_(2), None, None


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 take half the time of those in float32 (measured for processors that have them)."""
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
