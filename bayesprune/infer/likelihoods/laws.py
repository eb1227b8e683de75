"""Laws of class labels whose log probability is not that of what they draw."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor


class SmoothedCategorical(dist.Categorical):
    """Categorical whose log probability is averaged over labels that are replaced by a uniform one with probability ε.

    log p̃(y) = (1 − ε) log p(y) + (ε/K) Σ_k log p(k) (Szegedy et al. 2016). Samples come from p itself.

    Args:
        logits: Shape ``(..., K)``.
        smoothing: ε.
        validate_args: As for every law.
    """

    def __init__(self, logits: Tensor, smoothing: float, validate_args: bool | None = None):
        self.smoothing = smoothing
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SmoothedCategorical:
        """The same law with another batch shape."""
        wider = super().expand(batch_shape, self._get_checked_instance(SmoothedCategorical, _instance))
        wider.smoothing = self.smoothing
        return wider

    def log_prob(self, value: Tensor) -> Tensor:
        """The averaged log probability log p̃(value), nats."""
        return (1 - self.smoothing) * super().log_prob(value) + self.smoothing * self.logits.mean(-1)


class WeighedCategorical(SmoothedCategorical):
    """Categorical whose log probability of a class counts as often as its weight says. Samples come from p itself.

    Args:
        logits: Shape ``(..., K)``.
        smoothing: ε.
        class_weight: Shape ``(K,)``.
        validate_args: As for every law.
    """

    def __init__(self, logits: Tensor, smoothing: float, class_weight: Tensor, validate_args: bool | None = None):
        self.class_weight = class_weight
        super().__init__(logits, smoothing, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WeighedCategorical:
        """The same law with another batch shape."""
        wider = super().expand(batch_shape, self._get_checked_instance(WeighedCategorical, _instance))
        assert isinstance(wider, WeighedCategorical)
        wider.class_weight = self.class_weight
        return wider

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability times the weight of the class, nats."""
        return self.class_weight[value.long()] * super().log_prob(value)
