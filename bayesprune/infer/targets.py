"""Targets of a batch, whose examples may count more or less than once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.infer.likelihoods import Likelihood


@dataclass(frozen=True)
class WeightedTargets:
    """Targets with a weight for each example, of which a batch is cut as if they were one tensor.

    Attributes:
        values: The targets, first dimension B, as a likelihood takes them.
        weight: How much each example counts, shape ``(B,)``, finite and not negative.
    """

    values: Tensor
    weight: Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.values)

    def __getitem__(self, examples: Any) -> WeightedTargets:
        """Some of the examples."""
        return WeightedTargets(self.values[examples], self.weight[examples])


Targets = Tensor | WeightedTargets


def losses(likelihood: Likelihood, outputs: Tensor, y: Targets) -> Tensor:
    """−log p(y | outputs) of each example times its weight, shape ``(B,)``, nats.

    Args:
        likelihood: p(y | outputs).
        outputs: The network's outputs.
        y: The targets.
    """
    if isinstance(y, Tensor):
        return likelihood.nll(outputs, y)
    return y.weight * likelihood.nll(outputs, y.values)


def weights_of(y: Targets) -> Tensor | None:
    """How much each example counts, shape ``(B,)``; ``None`` for all alike."""
    return None if isinstance(y, Tensor) else y.weight


def values_of(y: Targets) -> Tensor:
    """The targets without their weights."""
    return y if isinstance(y, Tensor) else y.values


def each_target(y: Targets, function: Callable[[Tensor], Tensor]) -> Targets:
    """The targets, and their weights if they have any, each as ``function`` gives it.

    Args:
        y: The targets.
        function: What to do with each tensor.
    """
    return function(y) if isinstance(y, Tensor) else WeightedTargets(function(y.values), function(y.weight))


def repeated(y: Targets, count: int) -> Targets:
    """The batch ``count`` times, one after the other.

    Args:
        y: The targets.
        count: How often.
    """
    if isinstance(y, Tensor):
        return y.repeat(count, *[1] * (y.dim() - 1))
    return y[torch.arange(len(y), device=y.weight.device).repeat(count)]


def joined_targets(batches: Sequence[Targets]) -> Targets:
    """Batches of targets, one after the other, as one."""
    weighted = [y for y in batches if isinstance(y, WeightedTargets)]
    if weighted:
        return WeightedTargets(torch.cat([y.values for y in weighted]), torch.cat([y.weight for y in weighted]))
    return torch.cat([y for y in batches if isinstance(y, Tensor)])
