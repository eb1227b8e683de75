"""Derivatives of many steps, corrected by few exact differences: unbiased, at little cost."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.methods.svi.estimates import Estimates

MEMORY = 0.7
"""Weight of the past, from one evaluation to the next."""
ALIKE = 4
"""As many examples the variance of all gates of a layer counts in that of each."""

TINY = 1e-24
"""The least variance."""


class CorrectedDifferences(Estimates):
    """Estimates d of E[C | ξ_s=1] − E[C | ξ_s=0] by a control variate.

    For a gate that each example draws, d = D + c: D is the mean of the derivatives ∂C/∂ξ_s, which steps of the weights
    bring along, and c that of (difference − derivative) over the examples where both are known. For a gate that a batch
    shares D is 0. Sums of both and of their squares are kept, and fade from one evaluation to the next.

    Where c was measured little, the layer tells what it may be: the c of its gates are taken to be Normal, with the
    mean and the variance that those of its measured gates have (empirical Bayes, Efron & Morris 1975), and c is the
    mean of its posterior. With many examples that is the mean of its own.

    Args:
        net: The network of the gates.
        mean: Averages a tensor over all processes.

    Attributes:
        net_cost: Latest d + ρ.
        slopes: Sum of the derivatives of the examples that count.
        slope_squares: Sum of their squares.
        seen: How many examples these are.
        gaps: For each gate the sum of differences, less their derivatives, of the examples that count.
        gap_squares: Sum of their squares.
        measured: How many examples these are.
    """

    vectors = ("net_cost", "slopes", "slope_squares", "gaps", "gap_squares", "measured")
    counts = ("seen",)
    slopes: Tensor
    slope_squares: Tensor
    gaps: Tensor
    gap_squares: Tensor
    measured: Tensor
    seen: float

    def add_slopes(self, slopes: Tensor, size: int) -> None:
        """Add the derivatives of a batch.

        Args:
            slopes: ∂C/∂ξ_s of each example, shape ``(B, S)``.
            size: Examples of the batch in all processes together.
        """
        first, second = self._pooled(slopes.T, size)
        self.slopes += first
        self.slope_squares += second
        self.seen += size

    def add_gaps(self, gaps: Tensor, wanted: Tensor, size: int) -> Tensor:
        """Add what differences were beyond their derivatives.

        Args:
            gaps: Shape ``(S, B)``.
            wanted: For which gates they were measured, bool, shape ``(S,)``.
            size: Examples in all processes together.

        Returns:
            Their sums over the examples, shape ``(S,)``.
        """
        first, second = self._pooled(gaps, size)
        self.gaps += first * wanted
        self.gap_squares += second * wanted
        self.measured += size * wanted
        return first

    def _pooled(self, values: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Sums over the examples of all processes of ``values``, shape ``(S, B)``, and of their squares."""
        values = values.to(self.gaps.dtype)
        sums = torch.stack([values.sum(1), values.square().sum(1)])
        if values.shape[1] == size:
            return sums[0], sums[1]
        counted = self._mean(torch.cat([sums, torch.full_like(sums[:1], values.shape[1])]))
        return counted[0] / counted[2] * size, counted[1] / counted[2] * size

    def fade(self) -> None:
        """Let what there is count less than what comes."""
        for name in ("slopes", "slope_squares", "gaps", "gap_squares", "measured", "seen"):
            setattr(self, name, getattr(self, name) * MEMORY)

    def estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        """d, its standard error, infinite where nothing is known, and that of its correction c; each shape ``(S,)``."""
        correction, variance = self._correction()
        if not self.seen:
            return correction, variance.sqrt(), variance.sqrt()
        slope = self.slopes / self.seen
        spread = (self.slope_squares / self.seen - slope.square()).clamp_(min=0) / max(1.0, self.seen - 1)
        return slope + correction, (variance + spread).sqrt_(), variance.sqrt()

    def _correction(self) -> tuple[Tensor, Tensor]:
        """C of every gate and its variance."""
        layer, known = self._layers(), self.measured > 0
        own, all_own = self.measured.clamp(min=1e-9), self._sum(self.measured, layer).clamp(min=1e-9)
        mean, common = self.gaps / own, self._sum(self.gaps, layer) / all_own
        spread = (self.gap_squares - self.gaps.square() / own).clamp_(min=0)
        alike = ALIKE * (layer > 0)
        spread = (spread + alike * self._sum(spread, layer) / all_own) / (own + alike - 1).clamp(min=1)
        variance = torch.where(known, (spread / own).clamp(min=TINY), torch.inf)
        gates, chance = self._sum(known.to(own), layer), self._sum(torch.where(known, spread, 0.0), layer) / all_own
        between = self._sum(self.measured * (mean - common).square(), layer) / all_own - chance
        between = (between * gates / (gates - 1)).clamp(min=0) + chance / gates
        between = torch.where((gates > 1) & (layer > 0), between.clamp(min=TINY), torch.inf)
        total = 1 / variance + 1 / between
        found = torch.where(known, mean / variance, 0.0) + torch.where(between.isinf(), 0.0, common / between)
        return found / total.clamp(min=TINY), 1 / total

    def _layers(self) -> Tensor:
        """Of every gate the number of its layer, from 1, and 0 if a batch shares it; shape ``(S,)``."""
        sizes = torch.tensor([self.net.num_shared, *(gate.size for gate in self.net.gates() if not gate.per_batch)])
        return torch.arange(len(sizes)).repeat_interleave(sizes).to(self.gaps.device)

    @staticmethod
    def _sum(values: Tensor, layer: Tensor) -> Tensor:
        """For every gate the sum of ``values`` over its layer."""
        sums = values.new_zeros(len(values) + 1).index_add_(0, layer, values)
        return sums[layer]
