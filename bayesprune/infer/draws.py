"""The joint distribution of all gates of a network, drawn once for one or for many rows."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor
from torch.distributions import constraints

from bayesprune.layers.gate import distinct_rows

_HALF = 2**15
_EVEN = -0x0001000100010002  # clears the lowest bit of each of the four 16-bit lanes of an int64


def bernoulli_rows(probs: Tensor, rows: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent Bernoulli draws, shape ``(rows, S)``, in the dtype of ``probs``.

    Uses 15 random bits a draw, which takes a third of the time of ``torch.bernoulli`` on a CPU: probabilities are
    rounded to multiples of 2^-15, and 0 and 1 are exact (a gate with θ = 0 is never on, one with θ = 1 never off).

    Args:
        probs: Inclusion probabilities, shape ``(S,)``.
        rows: Number of rows.
        generator: Where random bits come from, on the device of ``probs``; ``None`` for torch's global one.
    """
    return rows_below(thresholds(probs), rows, probs.dtype, generator)


def thresholds(probs: Tensor) -> Tensor:
    """Below which of the numbers that `rows_below` draws a gate is on, int16, shape ``(S,)``.

    Args:
        probs: Inclusion probabilities, shape ``(S,)``.
    """
    return (probs.detach() * _HALF).round_().mul_(2).sub_(_HALF).clamp_(max=_HALF - 1).to(torch.int16)


def rows_below(threshold: Tensor, rows: int, dtype: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
    """Draws as those of `bernoulli_rows`, in half the time for those who draw often with the same probabilities.

    Args:
        threshold: From `thresholds`, shape ``(S,)``.
        rows: Number of rows.
        dtype: Of the draws.
        generator: As for `bernoulli_rows`.
    """
    count = rows * threshold.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=threshold.device).random_(
        -(2**63), None, generator=generator
    )
    uniform = words.bitwise_and_(_EVEN).view(torch.int16)[:count].view(rows, -1)  # even, in [-2^15, 2^15 - 2]
    return torch.lt(uniform, threshold, out=torch.empty(uniform.shape, dtype=dtype, device=uniform.device))


class GateDraws(TorchDistribution):
    """ξ_s ~ Bernoulli(π_s) for all S gates of a network: one site, however deep the network.

    A value has event shape ``(rows, S)``. With ``rows`` > 1 each example of a batch has a draw of its own; since the
    likelihood factorises over examples, averaging over them is an unbiased estimate of the same expectation with less
    variance, so the log probability is the *mean* over rows of Σ_s log Bernoulli(ξ_s | π_s) (the gates are counted
    once, not once an example). The first ``shared`` gates have one draw for all rows. The score function, which Pyro's
    own ``Trace_ELBO`` uses, is the *sum* over all that was drawn (`score_parts`).

    Args:
        probs: Inclusion probabilities π, shape ``(S,)``.
        rows: Rows of a draw: the batch size, or 1 for one draw a batch.
        shared: How many leading gates share one draw among the rows.

    Examples:
        >>> gates = GateDraws(torch.tensor([0.0, 0.5, 1.0]), rows=4)
        >>> gates.sample()[:, [0, 2]].mean(0)
        tensor([0., 1.])
    """

    arg_constraints: ClassVar = {"probs": constraints.unit_interval}
    support = constraints.independent(constraints.boolean, 2)
    has_rsample = False

    def __init__(self, probs: Tensor, rows: int = 1, shared: int = 0, validate_args: bool | None = None):
        self.probs = probs
        self.rows = rows
        self.shared = shared
        super().__init__(torch.Size(), torch.Size((rows, probs.numel())), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GateDraws:
        """The distribution itself: it has no batch dimensions.

        Raises:
            NotImplementedError: for a non-empty ``batch_shape``.
        """
        if torch.Size(batch_shape) != torch.Size():
            raise NotImplementedError("GateDraws has no batch dimensions; do not put the gates inside a plate")
        return self

    @property
    def distinct(self) -> int:
        """How many rows of a draw are drawn; the others repeat them in turn."""
        return distinct_rows(self.rows)

    @property
    def mean(self) -> Tensor:
        """π, shape ``(rows, S)``."""
        return self.probs.expand(self.rows, -1)

    @property
    def variance(self) -> Tensor:
        """π(1 − π), shape ``(rows, S)``."""
        return (self.probs * (1 - self.probs)).expand(self.rows, -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Gate values, shape ``sample_shape + (rows, S)``, 0 or 1.

        Of more than 32 rows at most every fourth is drawn anew: each row has the same law, so averages over rows keep
        their mean, with a little more variance, in a quarter of the time.
        """
        draws = torch.Size(sample_shape).numel()
        xi = bernoulli_rows(self.probs, draws * self.distinct).view(draws, self.distinct, -1)
        if self.distinct < self.rows:
            xi = xi.repeat(1, -(-self.rows // self.distinct), 1)[:, : self.rows]
        if self.shared and self.rows > 1:
            xi[:, :, : self.shared] = xi[:, :1, : self.shared]
        return xi.reshape(*sample_shape, self.rows, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Mean over rows of Σ_s log Bernoulli(ξ_s | π_s), in nats; a value of shape ``(S,)`` counts as one row."""
        log_prob = self._entries(value).sum(-1)
        return log_prob.mean(-1) if value.dim() > 1 else log_prob

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """Parts of a score-function estimator: ∇E[f(ξ)] = E[f ∇log q], q being the law of the *whole* draw.

        So ``score_function`` is the sum, not the mean, of log Bernoulli(ξ | π) over all that was drawn: rows that
        repeat others count once, and so does the one draw of the ``shared`` gates. Pyro neither scales nor masks it.
        ``log_prob``, which is part of f and is scaled, stays the mean over rows.

        Args:
            x: A value of `sample`, shape ``(..., rows, S)``, or ``(S,)`` for one row.
            *args: Passed on, as Pyro does.
            **kwargs: Passed on, as Pyro does.
        """
        parts = super().score_parts(x, *args, **kwargs)
        if x.dim() < 2:
            return parts
        entries = self._entries(x[..., : self.distinct, :])
        score = entries[..., 0, : self.shared].sum(-1) + entries[..., self.shared :].sum((-1, -2))
        return parts._replace(score_function=score)

    def _entries(self, value: Tensor) -> Tensor:
        """Entry by entry log Bernoulli(ξ_s | π_s), in the shape of ``value``; finite for the impossible too."""
        tiny = torch.finfo(self.probs.dtype).tiny
        on, off = self.probs.clamp(min=tiny).log(), (1 - self.probs).clamp(min=tiny).log()
        return value * on + (1 - value) * off
