"""The state of the gates of a run in numbers, one record a gated module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan

from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.pruning import gates_left

CONVERGED = 0.01
"""A gate counts as converged when it is removed or its θ is this close to 0 or 1."""


@dataclass(frozen=True)
class GateSummary:
    """The gates of one module.

    Attributes:
        name: Name of the gated module, as in `BayesianNet.gate_probs`.
        start: Gates when training started.
        left: Gates with θ > ½, those that `compact` keeps.
        expected: Expected number of gates that are on, Σ θ.
        converged: Fraction of the starting gates that are removed or have θ within 0.01 of 0 or 1.
        low: Lowest θ of the gates that were not removed; NaN if there is none.
        high: Highest θ of these.

    Examples:
        >>> import torch
        >>> summarize({"layer": torch.tensor([1.0, 0.75, 0.0])}, {"layer": torch.tensor([0, 1])})[0].left
        2
    """

    name: str
    start: int
    left: int
    expected: float
    converged: float
    low: float
    high: float


@checked_arguments
def summarize(thetas: Mapping[str, Tensor], survivors: Mapping[str, Tensor]) -> list[GateSummary]:
    """One record for each gated module, in the order of ``thetas``.

    Args:
        thetas: By module name, θ of all starting gates, shape ``(start,)``, 0 where removed.
        survivors: By module name, the starting indices of the gates that were not removed; a module that is gone is
            missing.
    """
    return [_summarize_one(name, theta, survivors.get(name)) for name, theta in thetas.items()]


@checked_arguments
def total(summaries: list[GateSummary]) -> GateSummary:
    """The record of all modules together, called ``all``."""
    start = sum(s.start for s in summaries)
    present = [s for s in summaries if not isnan(s.low)]
    return GateSummary(
        name="all",
        start=start,
        left=sum(s.left for s in summaries),
        expected=sum(s.expected for s in summaries),
        converged=sum(s.converged * s.start for s in summaries) / start if start else nan,
        low=min((s.low for s in present), default=nan),
        high=max((s.high for s in present), default=nan),
    )


def _summarize_one(name: str, theta: Tensor, survivors: Tensor | None) -> GateSummary:
    present = theta.new_zeros(0) if survivors is None else theta[survivors]
    interior = (theta > CONVERGED) & (theta < 1 - CONVERGED)
    return GateSummary(
        name=name,
        start=len(theta),
        left=gates_left(theta),
        expected=float(theta.sum()),
        converged=1 - float(interior.double().mean()),
        low=float(present.min()) if len(present) else nan,
        high=float(present.max()) if len(present) else nan,
    )
