"""Linear and convolution layers with a Normal posterior for every weight: Gaussian slabs.

A weight where its gates are on has q(w) = Normal(μ, σ²) (mean field), μ the layer's ``weight`` and ``bias``, log σ
kept beside them. Without a draw the layers compute with μ, so a network of them is still the plain network.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.layers.gate import Draw, distinct_rows
from bayesprune.layers.gated import Conv1d, Conv2d, Linear

TINY = 1e-16
"""Added to variances, whose root has no derivative at 0."""
SCALES = ("weight_log_scale", "bias_log_scale")
"""Names of the parameters that hold log σ."""


class _Own(threading.local):
    """The weights of a layer that a thread has drawn."""

    weights: tuple[Tensor, Tensor | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has none."""
        return _Own, ()


class NormalLayer(nn.Module):
    """What layers with Normal weights share; goes before the layer whose map it makes random.

    Three kinds of passes, by what the layer is handed:

    - nothing: the weights are their means;
    - a `Draw` with ``noise``: local reparameterisation (Kingma, Salimans & Welling 2015). Each output is drawn from its
      own law given the inputs, Normal(μ·x, σ²·x²), uncorrelated with every other example's and with those at other
      positions of a convolution. Drawing normal deviates takes long, so up to four examples of a large batch have the
      same, each times a sign of its own;
    - ``drawn`` weights: those, for all examples alike, in the thread that drew them.

    Attributes:
        weight_log_scale: log σ of the weights, in their shape.
        bias_log_scale: log σ of the bias, or ``None``.
        draw: Tells whether to add noise; ``None`` outside a `BayesianNet`.
        drawn: Weights and bias that this thread computes with; ``None`` for none.
        handed: σ² of weights and bias as of log σ now, with or without derivative, for passes that add noise; ``None``
            to compute them in each. The outputs' variances are computed in their format, which may be a shorter one.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
        >>> give_normal_slabs(net, 0.5)
        >>> [name for name, _ in normal_layers(net)["0"].named_parameters()]
        ['weight', 'bias', 'weight_log_scale', 'bias_log_scale']
    """

    weight: Any
    bias: Any
    weight_log_scale: nn.Parameter
    bias_log_scale: nn.Parameter | None
    draw: Draw | None
    handed: tuple[Tensor, Tensor | None] | None

    def become_normal(self, scale: float) -> None:
        """Take up Normal weights, their means the present weights.

        Args:
            scale: σ relative to the root mean square of the weights.
        """
        spread = float(self.weight.detach().square().mean().sqrt()) or 1 / math.sqrt(self.weight[0].numel())
        start = math.log(scale * spread)
        self.weight_log_scale = nn.Parameter(torch.full_like(self.weight, start))
        self.bias_log_scale = None if self.bias is None else nn.Parameter(torch.full_like(self.bias, start))
        self.draw = self.handed = None
        self._own = _Own()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of."""
        return {**self.__dict__, "_own": _Own(), "handed": None}

    @property
    def drawn(self) -> tuple[Tensor, Tensor | None] | None:
        """Weights and bias that this thread computes with; ``None`` for none."""
        return self._own.weights

    @drawn.setter
    def drawn(self, weights: tuple[Tensor, Tensor | None] | None) -> None:
        self._own.weights = weights

    def variances(self) -> tuple[Tensor, Tensor | None]:
        """σ² of weights and bias."""
        if self.handed is not None:
            return self.handed
        bias = None if self.bias_log_scale is None else (2 * self.bias_log_scale).exp()
        return (2 * self.weight_log_scale).exp(), bias

    @torch.no_grad()
    def draw_weights(self) -> None:
        """Draw weights from the posterior, with which all passes compute until `drop_weights`."""
        bias = None
        if self.bias is not None and self.bias_log_scale is not None:
            bias = self.bias + self.bias_log_scale.exp() * torch.randn_like(self.bias)
        self.drawn = self.weight + self.weight_log_scale.exp() * torch.randn_like(self.weight), bias

    def drop_weights(self) -> None:
        """Forget drawn weights."""
        self.drawn = None

    def ungated(self, x: Tensor) -> Tensor:
        """What the gate multiplies."""
        if self.drawn is not None:
            return self.map(x, *self.drawn)
        mean = self.map(x, self.weight, self.bias)
        if self.draw is None or not self.draw.noise:
            return mean
        weight, bias = self.variances()
        scale = self.deviation(self.map(x.square().to(weight.dtype), weight, bias).to(mean.dtype))
        return torch.addcmul(mean, scale, _deviates(scale, self.draw.noise))

    def deviation(self, variance: Tensor) -> Tensor:
        """The standard deviation of the outputs, given their variance, which is written over."""
        return variance.add_(TINY).sqrt_()

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's linear map with these weights.

        Args:
            x: Inputs.
            weight: In the shape of the layer's.
            bias: In the shape of the layer's; ``None`` for none.
        """
        raise NotImplementedError


class NormalLinear(NormalLayer, Linear):
    """`layers.Linear` with Normal weights; see `NormalLayer`.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 1))
        >>> give_normal_slabs(net, 0.5)
        >>> isinstance(net[0], NormalLinear)
        True
    """

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Wx + b."""
        return F.linear(x, weight, bias)


class _NormalConv(NormalLayer):
    """What convolutions with Normal weights share."""

    def deviation(self, variance: Tensor) -> Tensor:
        """Fast algorithms for convolutions (Winograd's) round what is 0 to somewhat less, which has no root."""
        return (variance.relu_() + TINY).sqrt_()


class NormalConv1d(_NormalConv, Conv1d):
    """`layers.Conv1d` with Normal weights; see `NormalLayer`.

    Examples:
        >>> net = nn.Sequential(nn.Conv1d(2, 1, 3))
        >>> give_normal_slabs(net, 0.5)
        >>> isinstance(net[0], NormalConv1d)
        True
    """

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W ∗ x + b."""
        return self._conv_forward(x, weight, bias)


class NormalConv2d(_NormalConv, Conv2d):
    """`layers.Conv2d` with Normal weights; see `NormalLayer`.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(2, 1, 3))
        >>> give_normal_slabs(net, 0.5)
        >>> isinstance(net[0], NormalConv2d)
        True
    """

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W ∗ x + b."""
        return self._conv_forward(x, weight, bias)


def _deviates(like: Tensor, examples: int) -> Tensor:
    """Standard normal deviates in the shape of ``like``, uncorrelated; independent where its rows are no examples."""
    distinct = distinct_rows(examples)
    if len(like) != examples or examples == distinct:
        return torch.randn_like(like)
    drawn = torch.randn_like(like[:distinct])
    times = -(-examples // distinct)
    shape = times, distinct, *[1] * (like.dim() - 1)
    signs = torch.randint(2, shape, dtype=like.dtype, device=like.device).mul_(2).sub_(1)
    return (drawn * signs).flatten(0, 1)[:examples]


NORMAL: dict[type[nn.Module], type[NormalLayer]] = {
    nn.Linear: NormalLinear, Linear: NormalLinear, nn.Conv1d: NormalConv1d, Conv1d: NormalConv1d,
    nn.Conv2d: NormalConv2d, Conv2d: NormalConv2d,
}  # fmt: skip
"""By class of a layer, what it becomes."""


@checked_arguments
def give_normal_slabs(net: nn.Module, scale: float, skip: Sequence[str] = ()) -> None:
    """Give every linear and convolution layer of ``net`` Normal weights, in place; those that have them stay.

    Layers keep their names, hooks and parameters, whose values become the means. Layers of other classes (subclasses of
    torch's, transposed and three-dimensional convolutions), those that share parameters with another module and those
    whose weight is computed from other parameters keep point weights. `BayesianNet` skips those that are called more
    than once, too.

    Args:
        net: The network.
        scale: σ at the start, relative to the root mean square of a layer's weights.
        skip: Names of layers that keep point weights as well: those that are called more than once, say, of which each
            call would draw outputs of its own, as no network does.

    Raises:
        ConfigError: for a scale that is not positive and finite, and a name in ``skip`` that no module has.
    """
    scale = real("give_normal_slabs: scale", scale, 0)
    unknown = [name for name in skip if name not in dict(net.named_modules())]
    if unknown:
        raise ConfigError(f"give_normal_slabs: the network has no module {unknown[0]!r}; see dict(net.named_modules())")
    owners: dict[int, int] = {}
    for module in net.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in net.named_modules():
        kind = NORMAL.get(type(module))
        if (
            kind is None
            or name in skip
            or any(owners.get(id(p)) != 1 for p in (module.weight, module.bias) if p is not None)
        ):
            continue
        if not hasattr(module, "gate"):
            module.gate = None  # type: ignore[assignment]
        module.__class__ = kind
        module.become_normal(scale)  # type: ignore[operator]


@checked_arguments
def normal_layers(net: nn.Module) -> dict[str, NormalLayer]:
    """The layers of ``net`` with Normal weights, by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, NormalLayer)}
