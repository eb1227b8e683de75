"""Derivatives of many steps, corrected by few exact differences: unbiased, at little cost."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.methods.svi.estimates import Estimates

MEMORY = 0.9
"""Weight of the past, from one evaluation to the next."""
ALIKE = 4
"""As many examples the variance of all gates of a layer counts in that of each."""

TINY = 1e-24
"""The least variance."""


class CorrectedDifferences(Estimates):
    """Estimates d of E[C | ξ_s=1] − E[C | ξ_s=0] by a control variate that follows from derivatives.

    For a gate that each example draws, h = ∂C/∂ξ_s at the drawn ξ tells of the difference to first order, and h − ½ C″
    (2ξ_s − 1) to second. The mean of h² is C″ where the model is right (Fisher information; LeCun, Denker & Solla 1990
    prune by it), so v = h − ½ q with the bend q = h²/(1 + |h|) (2ξ_s − 1) is nearer; by the divisor v keeps the sign of
    h where the loss is far from quadratic. Steps of the weights bring h along, so the mean of v is known of many
    examples; the mean of (difference − v) is c, known of few. Whatever v is, d = v̄ + c has
    no bias. For a gate that a batch shares, v is 0.

    Where c was measured little, the layer tells what it may be: the c of its gates are taken to be Normal, their means
    a line over q̄ and their variance what its measured gates have about it (empirical Bayes with regression, Efron &
    Morris 1975; Fay & Herriot 1979), and c is the mean of its posterior. With many examples that is the mean of its
    own. Of g gates the sum of squares about the line is divided by g − 4, the mean of the variance under its own
    posterior, so that few gates do not promise too much; of 4 or fewer nothing is concluded.

    The examples of c are among those of v̄, so the variance of d is those of both and 2 cov(v̄, c). Of n examples seen,
    cov(v̄, c) is cov(v, difference − v)/n times the share that the gate's own mean has in c. The error is never taken to
    be less than that of c alone.

    All is kept in sums over examples, which fade from one evaluation to the next.

    Args:
        net: The network of the gates.
        mean: Averages a tensor over all processes.

    Attributes:
        net_cost: Latest d + ρ.
        values: Σ v, shape ``(S,)``.
        value_squares: Σ v².
        bends: Σ q.
        seen: How many examples these are.
        gaps: Σ of (difference − v) of the examples where it was measured.
        gap_squares: Σ of their squares.
        gap_values: Σ v of the same examples.
        products: Σ v (difference − v) of them.
        measured: How many examples these are, shape ``(S,)``.
    """

    sums: ClassVar[tuple[str, ...]] = (
        *("values", "value_squares", "bends"),
        *("gaps", "gap_squares", "gap_values", "products", "measured"),
    )
    vectors: ClassVar[tuple[str, ...]] = ("net_cost", *sums)
    counts: ClassVar[tuple[str, ...]] = ("seen",)
    values: Tensor
    value_squares: Tensor
    bends: Tensor
    seen: float
    gaps: Tensor
    gap_squares: Tensor
    gap_values: Tensor
    products: Tensor
    measured: Tensor

    def add_values(self, slopes: Tensor, xi: Tensor, size: int) -> Tensor:
        """Add the derivatives of a batch.

        Args:
            slopes: h of each example, shape ``(B, S)``, 0 for gates that the batch shares.
            xi: The gates that they were seen at, shape ``(B, S)``.
            size: Examples of the batch in all processes together.

        Returns:
            v of each example, shape ``(B, S)``.
        """
        bends = slopes.square() / (1 + slopes.abs()) * (2 * xi - 1)
        values = slopes - bends / 2
        sums = self._pooled(size, values.sum(0), values.square().sum(0), bends.sum(0), examples=len(xi))
        self.values += sums[0]
        self.value_squares += sums[1]
        self.bends += sums[2]
        self.seen += size
        return values

    def add_gaps(self, gaps: Tensor, wanted: Tensor, size: int, values: Tensor | None = None) -> Tensor:
        """Add what differences were beyond v.

        Args:
            gaps: Shape ``(B, S)``.
            wanted: For which gates they were measured, bool, shape ``(S,)``.
            size: Examples in all processes together.
            values: v of the same examples, shape ``(B, S)``; ``None`` for 0.

        Returns:
            Their sums over the examples, shape ``(S,)``.
        """
        values = torch.zeros_like(gaps) if values is None else values
        own = gaps.sum(0), gaps.square().sum(0), values.sum(0), (values * gaps).sum(0)
        sums = self._pooled(size, *own, examples=len(gaps)) * wanted
        self.gaps += sums[0]
        self.gap_squares += sums[1]
        self.gap_values += sums[2]
        self.products += sums[3]
        self.measured += size * wanted
        return sums[0]

    def _pooled(self, size: int, *sums: Tensor, examples: int) -> Tensor:
        """The sums over the ``size`` examples of all processes, given those over the ``examples`` of this one."""
        own = torch.stack(sums).to(self.gaps.dtype)
        if examples == size:
            return own
        counted = self._mean(torch.cat([own, torch.full_like(own[:1], examples)]))
        return counted[:-1] * (size / counted[-1])

    def fade(self) -> None:
        """Let what there is count less than what comes."""
        for name in (*self.sums, "seen"):
            setattr(self, name, getattr(self, name) * MEMORY)

    def estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        """d, its standard error, infinite where nothing is known, and that of its correction c; each shape ``(S,)``."""
        seen = max(self.seen, 1.0)
        value = self.values / seen
        chance = (self.value_squares / seen - value.square()).clamp_(min=0) / max(1.0, seen - 1)
        correction, variance, share = self._correction(self.bends / seen)
        both = self.products - self.gap_values * self.gaps / self.measured.clamp(min=1)
        both /= (self.measured - 1).clamp(min=1)
        chance = (chance + 2 * share * both / seen).clamp_(min=0)
        return value + correction, (variance + chance).sqrt_(), variance.sqrt()

    def _correction(self, bends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The c of every gate, its variance, and the share of the gate's own mean in it, each shape ``(S,)``.

        Args:
            bends: q̄ of every gate.
        """
        layer, known = self._layers(), self.measured > 1  # of one example the spread is not known
        own, all_own = self.measured.clamp(min=1e-9), _over(layer, self.measured).clamp(min=1e-9)
        mean, spread = self.gaps / own, (self.gap_squares - self.gaps.square() / own).clamp_(min=0)
        alike = ALIKE * (layer > 0)
        spread = (spread + alike * _over(layer, spread) / all_own) / (own + alike - 1).clamp(min=1)
        variance = torch.where(known, (spread / own).clamp(min=TINY), torch.inf)
        line = _line(layer, self.measured, bends, mean)
        gates, chance = _over(layer, known.to(own)), _over(layer, torch.where(known, spread, 0.0)) / all_own
        between = _over(layer, self.measured * (mean - line).square()) / all_own
        between = (between * gates / (gates - 4) - chance).clamp(min=0) * (1 + 2 / gates) + 2 * chance / gates
        between = torch.where((gates > 4) & (layer > 0), between.clamp(min=TINY), torch.inf)
        total = 1 / variance + 1 / between
        found = torch.where(known, mean / variance, 0.0) + torch.where(between.isinf(), 0.0, line / between)
        return found / total.clamp(min=TINY), 1 / total, torch.where(known, 1 / (variance * total), 0.0)

    def _layers(self) -> Tensor:
        """Of every gate the number of its layer, from 1, and 0 where no other gate tells of it; shape ``(S,)``.

        Those are gates that a batch shares, and all under a fixed prior, where each is measured anyway.
        """
        if not self.net.prior_type.decides:
            return torch.zeros_like(self.gaps, dtype=torch.long)
        sizes = torch.tensor([self.net.num_shared, *(gate.size for gate in self.net.gates() if not gate.per_batch)])
        return torch.arange(len(sizes)).repeat_interleave(sizes).to(self.gaps.device)


def _over(layer: Tensor, values: Tensor) -> Tensor:
    """For every gate the sum of ``values`` over its layer."""
    return values.new_zeros(len(values) + 1).index_add_(0, layer, values)[layer]


def _line(layer: Tensor, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """For every gate what the line of its layer gives, fitted by least squares.

    Args:
        layer: The layer of every gate.
        weight: How much each gate counts.
        x: Places of the gates.
        y: Values there.
    """
    total = _over(layer, weight).clamp(min=1e-9)
    away, value = x - _over(layer, weight * x) / total, _over(layer, weight * y) / total
    return value + away * _over(layer, weight * away * y) / _over(layer, weight * away.square()).clamp(min=TINY)
