"""The posterior of the weights: what training, the objective and predictions ask of it, and the point mass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.checked import meant, shown
from bayesprune.errors import ConfigError

WEIGHTS = ("point", "normal")
"""Names of posteriors of the weights."""


class WeightPosterior(ABC):
    """q(w), given the network whose weights they are. By gate name, θ has shape ``(size,)`` wherever it is asked for.

    Attributes:
        name: By which a `BayesianNet` is asked for it.
    """

    name: ClassVar[str]

    @abstractmethod
    def means(self) -> list[nn.Parameter]:
        """μ of all weights with a spread of their own; the others are point weights, which decay."""

    @abstractmethod
    def log_scales(self) -> list[nn.Parameter]:
        """Log σ of the same weights."""

    # training ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def divergence(self, theta: Mapping[str, Tensor]) -> Tensor:
        """KL of the posterior from the prior, nats for the whole data set; differentiable in θ and the weights.

        Args:
            theta: By gate name, the inclusion probabilities.
        """

    @abstractmethod
    def refresh(self, theta: Mapping[str, Tensor], num_data: float) -> dict[str, Tensor]:
        """Take note that θ moved, for `add_gradients`.

        Args:
            theta: By gate name, the inclusion probabilities.
            num_data: N.

        Returns:
            By gate name, the derivative of `divergence` in θ: what a structure adds to it. Empty where that is nothing.
        """

    @abstractmethod
    def add_gradients(self) -> None:
        """Add the derivative of the divergence over N to the gradients of all means and log scales that have one."""

    @abstractmethod
    def cache_variances(self, learn: bool) -> None:
        """Before a pass of training: give the layers their variances, which change only after a step of log σ.

        Args:
            learn: Whether log σ takes a step after this pass; otherwise it gets no gradient.
        """

    @abstractmethod
    def drop_variances(self) -> None:
        """Let the layers compute their variances in every pass again."""

    # draws ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def drawn(self, weights: Tensor | None = None) -> AbstractContextManager[None]:
        """Within the context all passes compute with these weights, for all examples alike.

        Args:
            weights: Those of `means`, one after the other, shape ``(D,)``; ``None`` to draw them.
        """

    @abstractmethod
    def pyro_model(self, theta: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Within the context passes compute with the weights of the site ``weights`` of a Pyro model.

        Args:
            theta: By gate name, the inclusion probabilities.
        """

    @abstractmethod
    def pyro_guide(self, theta: Mapping[str, Tensor]) -> None:
        """Sample that site in the guide.

        Args:
            theta: By gate name, the inclusion probabilities.
        """

    # what the data determine ---------------------------------------------------------------------------------------

    @abstractmethod
    def prior_scales(self) -> list[Tensor]:
        """σ0, the standard deviation of the prior, one for each of `means`."""

    @abstractmethod
    def prior_spreads(self, theta: Mapping[str, Tensor]) -> list[Tensor]:
        """σ0 √Θ of each of `means`, broadcastable to it, Θ the probability that a weight is there.

        Args:
            theta: By gate name, the inclusion probabilities.
        """

    @abstractmethod
    def effective_parameters(self, theta: Mapping[str, Tensor]) -> float:
        """How many weights the data determine (MacKay 1992).

        Args:
            theta: By gate name, the inclusion probabilities.
        """


class Point(WeightPosterior):
    """A point mass: every weight is what it is. The prior is the optimiser's weight decay, and here is nothing to do.

    Examples:
        >>> Point().effective_parameters({})
        0.0
    """

    name = "point"

    def means(self) -> list[nn.Parameter]:
        """None."""
        return []

    def log_scales(self) -> list[nn.Parameter]:
        """None."""
        return []

    def divergence(self, theta: Mapping[str, Tensor]) -> Tensor:
        """0."""
        return torch.zeros(())

    def refresh(self, theta: Mapping[str, Tensor], num_data: float) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def add_gradients(self) -> None:
        """Nothing to add."""

    def cache_variances(self, learn: bool) -> None:
        """There are none."""

    def drop_variances(self) -> None:
        """There are none."""

    def drawn(self, weights: Tensor | None = None) -> AbstractContextManager[None]:
        """Nothing is drawn."""
        return nullcontext()

    def pyro_model(self, theta: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """No site."""
        return nullcontext()

    def pyro_guide(self, theta: Mapping[str, Tensor]) -> None:
        """No site."""

    def prior_scales(self) -> list[Tensor]:
        """None."""
        return []

    def prior_spreads(self, theta: Mapping[str, Tensor]) -> list[Tensor]:
        """None."""
        return []

    def effective_parameters(self, theta: Mapping[str, Tensor]) -> float:
        """0: there is no spread to tell them by."""
        return 0.0


def asked_for(weights: str | None, slab: str | None, default: str) -> str:
    """The name of the posterior of the weights that a user asks for.

    Args:
        weights: Its name; ``None`` if nothing is said.
        slab: The same under another name.
        default: Which it is if nothing is said.

    Raises:
        ConfigError: for an unknown one, and if the two differ.
    """
    given = [asked for asked in (weights, slab) if asked is not None]
    for asked in given:
        if not isinstance(asked, str) or asked not in WEIGHTS:
            raise ConfigError(f"unknown weights {shown(asked)}{meant(asked, WEIGHTS)}; known are {', '.join(WEIGHTS)}")
    if len({*given}) > 1:
        raise ConfigError(f"slab is another name of weights, and they differ: {shown(weights)} and {shown(slab)}")
    return given[0] if given else default
