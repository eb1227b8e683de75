"""The spike-and-slab law of a gated weight: an atom at 0 and a Gaussian slab."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraint_registry, constraints
from torch.distributions.utils import broadcast_all

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError


def _check(name: str, expected: str, tensor: Tensor, good: Tensor) -> None:
    """Raise a `ConfigError` with the first entry of ``tensor`` that is not ``good``."""
    if not bool(good.all()):
        found = tensor.detach()[~good].flatten()[0].item()
        raise ConfigError(f"SpikeAndSlab: {name} must be {expected}, got {found} in shape {tuple(tensor.shape)}")


class RealWithAtom(constraints.Constraint):
    """The real numbers, of which 0 has a probability of its own: no change of variables leaves a density on them."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each entry is a number."""
        return ~torch.isnan(value)


@constraint_registry.biject_to.register(RealWithAtom)
@constraint_registry.transform_to.register(RealWithAtom)
def _no_transform(constraint: RealWithAtom) -> NoReturn:
    raise ConfigError(
        "SpikeAndSlab: HMC, NUTS and guides with a density would never visit the atom at 0; sample a gate, "
        "Bernoulli(probs), times a weight, Normal(0, scale), as BayesianNet.joint does, or use importance sampling"
    )


class SpikeAndSlab(TorchDistribution):
    """The law of ξ·w with ξ ~ Bernoulli(probs) and w ~ Normal(0, scale), a Gaussian scale mixture.

    Densities are with respect to the measure δ₀ + Lebesgue: a value of exactly 0 is the atom's, any other the slab's.
    Methods that follow a gradient of the density (HMC, NUTS) never meet the atom and refuse such a site.

    Args:
        probs: Inclusion probabilities in [0, 1], broadcast against ``scale``; together they give the batch shape.
        scale: Standard deviation of the slab, positive and finite.
        validate_args: Whether to check the arguments and the values given to `log_prob`; by default the arguments
            always are, and values when Pyro's validation is on.

    Raises:
        ConfigError: if ``probs`` is outside [0, 1], ``scale`` is not positive and finite, or either is NaN.

    Examples:
        >>> law = SpikeAndSlab(torch.tensor(0.25), torch.tensor(2.0))
        >>> law.log_prob(torch.tensor(0.0)).exp(), law.variance
        (tensor(0.7500), tensor(1.))
    """

    arg_constraints = {"probs": constraints.unit_interval, "scale": constraints.positive}  # noqa: RUF012
    support = RealWithAtom()

    @checked_arguments
    def __init__(self, probs: Tensor | float, scale: Tensor | float, validate_args: bool | None = None):
        self.probs, self.scale = broadcast_all(probs, scale)
        if validate_args is not False:
            _check("probs", "a probability in [0, 1]", self.probs, (self.probs >= 0) & (self.probs <= 1))
            expected = "a positive, finite standard deviation (for a spike alone use probs=0)"
            _check("scale", expected, self.scale, (self.scale > 0) & torch.isfinite(self.scale))
        super().__init__(self.probs.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> SpikeAndSlab:
        """The same law with its parameters expanded to ``batch_shape``."""
        new = self._get_checked_instance(SpikeAndSlab, _instance)
        new.probs, new.scale = self.probs.expand(Size(batch_shape)), self.scale.expand(Size(batch_shape))
        super(SpikeAndSlab, new).__init__(new.probs.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log(1 − probs) where ``value`` is exactly 0, log probs + log Normal(value; 0, scale) elsewhere.

        An impossible value (0 at probs = 1, another at probs = 0) has −∞; its slope in ``probs`` is the largest float
        rather than infinite, which would turn into NaN where the value is masked.
        """
        if self._validate_args:
            self._validate_sample(value)
        in_atom = value == 0
        likely = torch.where(in_atom, 1 - self.probs, self.probs)
        impossible = likely == 0
        # Each logarithm sees a harmless number where it is not used, so that no infinite slope meets a zero.
        atom = torch.log1p(-torch.where(in_atom & ~impossible, self.probs, 0.0))
        weight = torch.log(torch.where(in_atom | impossible, 1.0, self.probs))
        slab = weight - (value / self.scale).square() / 2 - torch.log(self.scale) - math.log(2 * math.pi) / 2
        never = likely * torch.finfo(likely.dtype).max - math.inf
        return torch.where(impossible, never, torch.where(in_atom, atom, slab))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples of shape ``sample_shape + batch_shape``; no gradient, ξ being discrete."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            on = torch.bernoulli(self.probs.expand(shape)).bool()
            slab = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device) * self.scale
            return slab.masked_fill(~on, 0.0)

    def cdf(self, value: Tensor) -> Tensor:
        """P(ξ·w ≤ value), with its jump of 1 − probs at 0."""
        return self.probs * torch.special.ndtr(value / self.scale) + torch.where(value >= 0, 1 - self.probs, 0.0)

    def inclusion_prob(self, value: Tensor) -> Tensor:
        """P(ξ = 1 | ξ·w = value): 1 where ``value`` is not 0, and 0 where it is unless ``probs`` is 1."""
        return ((value != 0) | (self.probs == 1)).to(self.probs.dtype)

    @property
    def mean(self) -> Tensor:
        """0, of the batch shape."""
        return torch.zeros_like(self.scale)

    @property
    def variance(self) -> Tensor:
        """The variance probs · scale², of the batch shape."""
        return self.probs * self.scale.square()
