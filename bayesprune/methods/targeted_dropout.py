"""Targeted dropout: while training, weights that would be pruned are often 0 already (Gomez et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run, Site
from bayesprune.methods.protocol.ranking import smallest, whole_part

RISE, ALMOST = 0.2, 0.95
"""In each of the first two stretches of a run, of this share, γ rises: to so much of itself, and to all of it."""


class TargetedDropout(Method):
    """Sets the smallest weights of every output unit to 0 at random in each step, and for good in the end.

    Of each output's weights the ⌊γ n⌋ smallest of n are *targeted*: each of them is 0 with probability α in a step, and
    nothing else is changed by it. Both rise over the first 0.4 of a run. The last layer is left alone.

    Args:
        gamma: γ, which share of an output's weights is targeted, and 0 in the end.
        alpha: α, with what probability a targeted weight is 0 in a step.

    Raises:
        ConfigError: for shares outside (0, 1), and at the start of a run for a network in which none is targeted.

    Examples:
        >>> TargetedDropout(gamma=0.5).options()
        {'gamma': 0.5, 'alpha': 0.66}

    Sources:
        Gomez, Zhang, Kamalakara, Madaan, Swersky, Gal & Hinton 2019, "Learning Sparse Networks Using Targeted Dropout":
        weights, with its ramps as shares of its run of 256 epochs.
    """

    name: ClassVar[str] = "targeted_dropout"

    @checked_arguments
    def __init__(self, gamma: float = 0.75, alpha: float = 0.66):
        super().__init__()
        self.gamma = real("targeted_dropout: gamma", gamma, 0, 1)
        self.alpha = real("targeted_dropout: alpha", alpha, 0, 1, "(]")

    def setup(self, run: Run) -> Needs:
        """One phase, with views of weights.

        Raises:
            ConfigError: if no output has enough weights.
        """
        weights = [site for site in run.sites if site.kind == "weight"]
        self.last = weights[-1].name if weights else ""
        if not any(whole_part(self.gamma, site.weight[0].numel()) for site in weights[:-1]):
            raise ConfigError(
                f"targeted_dropout: gamma={self.gamma} of an output's weights is less than one in every layer but the "
                "last; raise it, or take a wider network"
            )
        return Needs((Phase("train"),), views=frozenset({"weight"}))

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """The weight, of which targeted entries are 0 at random while training."""
        if site.name == self.last or not site.layer.training:
            return value
        gamma, alpha = risen(self.gamma, self.alpha, run.progress)
        drop = torch.rand(value.shape, generator=run.generator).to(value.device) < alpha
        return value.masked_fill(drop & targeted(value, gamma), 0.0)

    def decide(self, run: Run) -> Decision:
        """Mask what is targeted."""
        weights = [site for site in run.sites if site.kind == "weight" and site.name != self.last]
        return Decision(masks={site.name: ~targeted(site.weight, self.gamma) for site in weights})


def risen(gamma: float, alpha: float, progress: float) -> tuple[float, float]:
    """γ and α as far as they have risen.

    Args:
        gamma: γ, which share is targeted in the end.
        alpha: α, with what probability what is targeted is 0 in a step, in the end.
        progress: Which share of the time is over.

    Examples:
        >>> [round(share, 3) for share in risen(0.5, 0.9, progress=0.1)]
        [0.237, 0.225]
    """
    first, second = min(1.0, progress / RISE), min(1.0, max(0.0, progress / RISE - 1))
    return gamma * (ALMOST * first + (1 - ALMOST) * second), alpha * min(1.0, progress / (2 * RISE))


def targeted(weight: Tensor, gamma: float) -> Tensor:
    """Which of each output's weights are among its ⌊γ n⌋ smallest, bool.

    Args:
        weight: The weight, shape ``(outputs, ...)``.
        gamma: γ.

    Examples:
        >>> targeted(torch.tensor([[0.1, -0.2, 0.3, -0.4]]), 0.5)
        tensor([[ True,  True, False, False]])
    """
    sizes = weight.detach().abs().flatten(1)
    return smallest(sizes, whole_part(gamma, sizes.shape[1])).view(weight.shape)
