"""Layers with Normal weights for the tests, and what their outputs are."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.layers import Draw, NormalLayer, give_normal_slabs

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(5, 4), (5,)),
    "Linear without bias": (lambda: nn.Linear(5, 4, bias=False), (5,)),
    "Linear of a sequence": (lambda: nn.Linear(5, 4), (3, 5)),
    "gated Linear": (lambda: layers.Linear(5, 4, gate="unit"), (5,)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 4)),
    "Conv2d in groups, without bias": (lambda: nn.Conv2d(4, 4, (3, 2), groups=4, dilation=2, bias=False), (4, 6, 4)),
    "circular Conv2d": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 3, 4)),
    "gated Conv1d": (lambda: layers.Conv1d(2, 3, 3, padding="same", gate="unit"), (2, 5)),
    "gated Conv2d": (lambda: layers.Conv2d(2, 3, 2, gate="unit"), (2, 3, 3)),
}  # fmt: skip
GATED = [name for name in LAYERS if name.startswith("gated")]


def normal(name: str) -> NormalLayer:
    """The layer in float64, its scales all different."""
    layer = LAYERS[name][0]().double()
    give_normal_slabs(layer, 0.5)
    assert isinstance(layer, NormalLayer)
    with torch.no_grad():
        for scale in (layer.weight_log_scale, layer.bias_log_scale):
            if scale is not None:
                scale.add_(0.7 * torch.randn_like(scale))
    return layer


def noisy(layer: NormalLayer, x: Tensor, xi: Tensor | None = None, examples: int | None = None) -> Tensor:
    """Outputs with noise, and gates at ``xi`` (all on); the rows are ``examples``."""
    gate = layer.gate
    xi = torch.ones(1 if gate is None else gate.size).double() if xi is None else xi
    draw = Draw([xi.shape[-1]])
    if gate is not None:
        gate.connect(draw, 0)
    layer.draw = draw
    with draw.use(xi, noise=len(x) if examples is None else examples):
        return layer(x)


def moments(layer: NormalLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the outputs for one example, from their derivatives: they are linear in the weights."""
    plain = copy.deepcopy(layer)
    plain.gate = None
    parameters = {"weight": (layer.weight, layer.weight_log_scale), "bias": (layer.bias, layer.bias_log_scale)}
    mean = variance = torch.zeros(()).double()
    for name, (value, log_scale) in parameters.items():
        if value is None:
            continue
        rest = {other: torch.zeros_like(v) for other, (v, _) in parameters.items() if v is not None}

        def output(w: Tensor, name: str = name, rest: dict[str, Tensor] = rest) -> Tensor:
            return torch.func.functional_call(plain, {**rest, name: w}, x[None])[0]

        slope = torch.autograd.functional.jacobian(output, torch.zeros_like(value)).flatten(-value.dim())
        mean = mean + slope @ value.detach().flatten()
        variance = variance + slope.square() @ (2 * log_scale.detach()).exp().flatten()
    return mean, variance
