"""Dropout of what an activation is made of in a fixed orthonormal basis."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, shown
from bayesprune.errors import ConfigError

Axis = Literal["channel", "space", "flat"]
Rule = Literal["or", "and"]


class SpectralDropout(nn.Module):
    """Takes its input apart by the cosine transform (DCT-II), drops weak coefficients, and puts it together again.

    A coefficient is *strong* if its size is larger than ``threshold`` times the root mean square of those that it is
    transformed with. While training, strong ones stay and others with the probability 1 − p (``rule="or"``), or strong
    ones alone, with that probability (``"and"``). In eval mode strong ones stay. Nothing is rescaled. It prunes
    coefficients and no parameters: `density` tells how many stay.

    Args:
        axis: What is transformed: the ``"channel"`` dimension, the dimensions of ``"space"`` behind it, or both
            (``"flat"``). The order of channels has no meaning, so that a basis along them is an arbitrary one.
        threshold: τ.
        p: With what probability a coefficient that is not kept by its strength goes.
        rule: Whether strength or chance is enough, or both are needed.

    Shape:
        input ``(B, C, ...)``, with dimensions of space for ``axis="space"``; output the same.

    Raises:
        ConfigError: for a threshold that is negative, a probability outside [0, 1], or another axis or rule.

    Examples:
        >>> import torch
        >>> wave = torch.tensor([[[1.0, 1.0, 1.0, 1.001]]])
        >>> SpectralDropout().eval()(wave)
        tensor([[[1.0002, 1.0002, 1.0002, 1.0002]]])

    Sources:
        After Khan, Hayat & Porikli 2017, "Regularization of Deep Neural Networks with Spectral Dropout", of which the
        abstract was known: the rules are ours, those of two programs that disagree.
    """

    @checked_arguments
    def __init__(self, axis: Axis = "space", threshold: float = 0.1, p: float = 0.2, rule: Rule = "or"):
        super().__init__()
        for name, value, known in (("axis", axis, get_args(Axis)), ("rule", rule, get_args(Rule))):
            if not isinstance(value, str) or value not in known:
                raise ConfigError(f"SpectralDropout: {name} must be one of {', '.join(known)}, got {shown(value)}")
        self.axis, self.rule = axis, rule
        self.threshold = real("SpectralDropout: threshold", threshold, 0, ends="[)")
        self.p = real("SpectralDropout: p", p, 0, 1, "[]")

    def forward(self, x: Tensor) -> Tensor:
        """The input without its weak coefficients."""
        found = self._transform(x)
        kept = self._strong(found)
        if self.training:
            lucky = torch.rand_like(found) >= self.p
            kept = kept | lucky if self.rule == "or" else kept & lucky
        return self._transform(found * kept.to(found.dtype), back=True)

    def density(self, x: Tensor) -> float:
        """Which share of the coefficients of an input is strong; waits for the device."""
        return float(self._strong(self._transform(x)).float().mean())

    def _dims(self, x: Tensor) -> tuple[int, ...]:
        """The dimensions that are transformed."""
        return {"channel": (1,), "space": tuple(range(2, x.dim())), "flat": tuple(range(1, x.dim()))}[self.axis]

    def _strong(self, found: Tensor) -> Tensor:
        """Which coefficients are strong, bool."""
        dims = self._dims(found)
        if not dims:
            return torch.ones_like(found, dtype=torch.bool)
        return found.abs() > self.threshold * found.detach().square().mean(dims, keepdim=True).sqrt()

    def _transform(self, x: Tensor, back: bool = False) -> Tensor:
        """The coefficients of an input, or what has these coefficients."""
        for dim in self._dims(x):
            basis = _cosines(x.shape[dim], x.dtype, x.device)
            x = torch.movedim(torch.movedim(x, dim, -1) @ (basis if back else basis.T), -1, dim)
        return x

    def extra_repr(self) -> str:
        """Axis, threshold, probability and rule."""
        return f"{self.axis!r}, threshold={self.threshold}, p={self.p}, rule={self.rule!r}"


@functools.lru_cache(maxsize=32)
def _cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal basis of the cosine transform, a row each.

    Args:
        size: How many numbers it transforms.
        dtype: In which format.
        device: Where.
    """
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * torch.outer(k, k + 0.5)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.to(device, dtype)
