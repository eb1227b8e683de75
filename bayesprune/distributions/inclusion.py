"""Fixed prior inclusion probabilities, and the layer-adaptive ones of SS-IG."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.distributions.gate_prior import EDGE, GatePrior
from bayesprune.distributions.kl import bernoulli_entropy
from bayesprune.errors import ConfigError

SSIG_C = 1e-9
"""The constant c in the exponent of the authors' experiments (Jantre, Bhattacharya & Maiti 2021)."""


class FixedInclusion(GatePrior):
    """ξ ~ Bernoulli(λ) with a known prior inclusion probability λ, kept as log γ = −logit λ.

    log γ is the price of an inclusion in nats for the whole data set, as that of `FlatteningPrior` is; the two differ
    by the entropy of the posterior, which this one keeps and the flattening prior cancels, see `penalty`. So inclusion
    probabilities end where prior and data put them, not at 0 or 1. Any λ in (0, 1) is represented, e^(−1000) too.

    Args:
        probs: λ in (0, 1), any shape, which is the batch shape; or
        log_gamma: −logit λ, finite, any sign.

    Raises:
        ConfigError: if not exactly one is given, or a value is out of range.

    Examples:
        >>> prior = FixedInclusion(0.5)
        >>> prior.optimum(torch.tensor([-0.01, 0.0, 0.01]), num_data=100)  # the data speak of one nat in all
        tensor([0.7311, 0.5000, 0.2689])
    """

    decides = False
    arg_constraints = {"log_gamma": constraints.real}  # noqa: RUF012
    support = constraints.boolean

    @checked_arguments
    def __init__(
        self,
        probs: Tensor | float | None = None,
        *,
        log_gamma: Tensor | float | None = None,
        validate_args: bool | None = None,
    ):
        if (probs is None) == (log_gamma is None):
            raise ConfigError("FixedInclusion: give either probs, in (0, 1), or log_gamma = -logit(probs)")
        value = torch.as_tensor(log_gamma if probs is None else probs)
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        if probs is not None:
            if not bool(((value > 0) & (value < 1)).all()):
                raise ConfigError(
                    "FixedInclusion: prior inclusion probabilities must be in (0, 1), got "
                    f"{value.min().item():g} to {value.max().item():g}; for smaller ones than floats can hold give "
                    "log_gamma = -logit(probs)"
                )
            value = -torch.logit(value)
        elif not bool(torch.isfinite(value).all()):
            raise ConfigError("FixedInclusion: log_gamma = -logit(probs) must be finite")
        super().__init__(value, validate_args)

    @property
    def probs(self) -> Tensor:
        """λ, of the batch shape; underflows to 0 for the smallest."""
        return torch.sigmoid(-self.log_gamma)

    @property
    def mean(self) -> Tensor:
        """λ, of the batch shape."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """λ(1 − λ), of the batch shape."""
        return self.probs * torch.sigmoid(self.log_gamma)

    def log_prob(self, value: Tensor) -> Tensor:
        """ξ log λ + (1 − ξ) log(1 − λ), nats; ``value`` 0 or 1, broadcast against the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return -value * self.log_gamma - softplus(-self.log_gamma)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples of shape ``sample_shape + batch_shape``, 0 or 1."""
        return torch.bernoulli(self.probs.expand(self._extended_shape(Size(sample_shape))))

    def divergence(self, theta: Tensor) -> Tensor:
        """−H(θ) − log(1 − λ), so that `penalty` is KL(Bern(θ) ‖ Bern(λ)), nats for the whole data set.

        Args:
            theta: Posterior inclusion probabilities θ in [0, 1], broadcast against the batch shape.
        """
        return softplus(-self.log_gamma) - bernoulli_entropy(theta)

    @staticmethod
    def slope(theta: Tensor) -> Tensor:
        """Logit θ, the derivative of −H(θ); nearer to 0 or 1 than 1e-6 it is that at 1e-6 from it."""
        return torch.logit(theta, EDGE)

    @staticmethod
    def unit(price: Tensor, num_data: int) -> Tensor:
        """|ρ|, at least one nat for the whole data set: a fixed prior may have any price, 0 too."""
        return price.abs().clamp(min=1 / num_data)

    @staticmethod
    def optimum(evidence: Tensor, num_data: int) -> Tensor:
        """sigmoid(−N evidence), 0 or 1 itself where it is within 1e-6 of it."""
        best = torch.sigmoid(-num_data * evidence)
        return torch.where(best < EDGE, 0.0, torch.where(best > 1 - EDGE, 1.0, best))

    @property
    def log_odds(self) -> Tensor:
        """Logit λ."""
        return -self.log_gamma

    def pyro_model(self) -> Tensor:
        """λ; nothing is unknown."""
        return self.probs

    def pyro_guide(self, theta: Tensor) -> None:
        """Nothing is unknown."""


@checked_arguments
def layer_adaptive_log_gamma(widths: Sequence[int], num_data: int, c: float = SSIG_C) -> list[float]:
    """−logit λ_l of the hidden layers of a network, λ_l being the layer-adaptive inclusion probabilities of SS-IG.

    −log λ_l = log n_{l+1} + c (n_l + 1) v_l, with u_l = (L+1)² (log N + log(L+1) + log(n_l+1) + log n_{l+1}) and v_l =
    (n_l+1)² + Σ_{m≠l} log(n_m+1) + L + log n_{l+1} + log(n_0+1) + log N + log Σ_m u_m: narrower where the layer behind
    is wide (Jantre, Bhattacharya & Maiti 2021, arXiv 2108.11000, corollary on the choice of the prior). Where a layer
    has one output behind it and c is tiny, λ_l is 1 up to 1e-6 and log γ_l capped at about −14.

    Args:
        widths: n_0, ..., n_{L+1}: inputs, the L hidden layers, outputs.
        num_data: N.
        c: The constant; 1e-9 in the authors' experiments.

    Returns:
        One number for each of the L hidden layers, nats for the whole data set.

    Raises:
        ConfigError: for fewer than one hidden layer, or widths or N below 1.
    """
    where = "layer_adaptive_log_gamma"
    widths = [whole(f"{where}: each of the widths", width) for width in widths]
    if len(widths) < 3:
        raise ConfigError(
            f"{where}: expected the widths of inputs, at least one hidden layer and outputs, got {list(widths)}"
        )
    num_data, c = whole(f"{where}: num_data", num_data), real(f"{where}: c", c, 0, ends="[)")
    hidden = len(widths) - 2
    pairs = [(widths[i], widths[i + 1]) for i in range(hidden + 1)]
    u = [(hidden + 1) ** 2 * (log(num_data) + log(hidden + 1) + log(n + 1) + log(after)) for n, after in pairs]
    found = []
    for layer in range(1, hidden + 1):
        n, after = pairs[layer]
        others = sum(log(m + 1) for index, (m, _) in enumerate(pairs) if index != layer)
        v = (n + 1) ** 2 + others + hidden + log(after) + log(widths[0] + 1) + log(num_data) + log(sum(u))
        minus_log = log(after) + c * (n + 1) * v
        found.append(minus_log + log(-torch.expm1(torch.tensor(-max(minus_log, 1e-6), dtype=torch.float64)).item()))
    return found
