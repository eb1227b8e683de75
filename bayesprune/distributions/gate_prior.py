"""What training has to know of a prior of gates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from pyro.distributions import TorchDistribution
from torch import Size, Tensor

Self = TypeVar("Self", bound="GatePrior")
EDGE = 1e-6
"""How near to 0 or 1 an inclusion probability is taken for 0 or 1 itself."""


class GatePrior(TorchDistribution):
    """A prior under which gate s adds θ_s log γ_s + `divergence` to the negative ELBO, nats for the whole data set.

    What depends on the kind of prior alone, and not on its log γ, can be asked of the class, too: `slope`, `unit` and
    `optimum`, which a step of θ asks for. They compute on the device and never wait for it.

    A prior of another kind is a class of this one that takes ``log_gamma`` by keyword.

    Attributes:
        log_gamma: log γ, the price of an inclusion; its shape is the batch shape.
        decides: Whether training decides about every gate, θ ending at 0 or 1; otherwise θ ends at the probability that
            prior and data say.

    Examples:
        >>> import torch
        >>> from bayesprune.distributions import FixedInclusion, FlatteningPrior
        >>> [prior.decides for prior in (FlatteningPrior(4.0), FixedInclusion(0.5))]
        [True, False]
        >>> FixedInclusion.slope(torch.tensor([0.5]))
        tensor([0.])
    """

    decides: ClassVar[bool]

    def __init__(self, log_gamma: Tensor, validate_args: bool | None = None):
        self.log_gamma = log_gamma
        super().__init__(log_gamma.shape, validate_args=validate_args)

    def expand(self: Self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same law with ``log_gamma`` expanded to ``batch_shape``."""
        new = self._get_checked_instance(type(self), _instance)
        new.log_gamma = self.log_gamma.expand(Size(batch_shape))
        TorchDistribution.__init__(new, new.log_gamma.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def penalty(self, theta: Tensor) -> Tensor:
        """All that a gate adds to the negative ELBO, θ log γ + `divergence`, nats for the whole data set.

        Args:
            theta: Posterior inclusion probabilities θ in [0, 1], broadcast against the batch shape.
        """
        return theta * self.log_gamma + self.divergence(theta)

    @abstractmethod
    def divergence(self, theta: Tensor) -> Tensor:
        """What a gate adds to the negative ELBO besides θ log γ.

        Args:
            theta: Posterior inclusion probabilities θ in [0, 1], broadcast against the batch shape.
        """

    @staticmethod
    @abstractmethod
    def slope(theta: Tensor) -> Tensor:
        """The derivative of `divergence`, finite at 0 and 1."""

    @staticmethod
    @abstractmethod
    def unit(price: Tensor, num_data: int) -> Tensor:
        """The price in whose units a step of θ is measured, positive.

        Args:
            price: ρ of every gate, nats per example.
            num_data: N.
        """

    @staticmethod
    @abstractmethod
    def optimum(evidence: Tensor, num_data: int) -> Tensor:
        """The θ at which θ · evidence + divergence(θ)/N is least.

        Args:
            evidence: What the data term and the price say against every gate, E[C | ξ=1] − E[C | ξ=0] + ρ, nats per
                example.
            num_data: N.
        """

    @property
    @abstractmethod
    def log_odds(self) -> Tensor:
        """Log P(ξ = 1)/P(ξ = 0) of a gate, whatever else is unknown integrated out."""

    @abstractmethod
    def pyro_model(self) -> Tensor:
        """Sample what the prior leaves unknown as sites of a Pyro model; returns the probability that a gate is on."""

    @abstractmethod
    def pyro_guide(self, theta: Tensor) -> None:
        """Sample the sites of `pyro_model` in the guide.

        Args:
            theta: Posterior inclusion probabilities θ in [0, 1], of the batch shape.
        """
