"""Magnitude pruning: ever more of the smallest weights are 0, or all at once (Zhu & Gupta 2017; Han et al. 2015)."""

from __future__ import annotations

from typing import ClassVar

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.ranking import smallest_overall, smallest_weights


class Magnitude(Method):
    """Masks the smallest weights: p(t) = p_f (1 − (1 − t/T)³) after the share t of the run, or p_f at T.

    Masked weights stay masked. The final share is reached at ``until``, so that the weights that are left train on.
    Each layer keeps its largest weight, so none is left empty.

    Args:
        sparsity: p_f, which share of the weights is 0 in the end.
        until: T, at which share of the run.
        layerwise: Whether the same share of each layer goes, rather than the smallest of all together.
        gradual: Whether weights go from the first epoch on, rather than all at T.

    Raises:
        ConfigError: for shares outside (0, 1), or an ``until`` outside (0, 1].

    Examples:
        >>> round(Magnitude(sparsity=0.8).share(0.25), 6)  # half of the way to T
        0.7

    Sources:
        Zhu & Gupta 2017, "To Prune, or Not to Prune", equation 1: by and by. Han, Pool, Tran & Dally 2015, "Learning
        both Weights and Connections for Efficient Neural Networks": at once.
    """

    name: ClassVar[str] = "magnitude"

    @checked_arguments
    def __init__(self, sparsity: float = 0.9, until: float = 0.5, layerwise: bool = False, gradual: bool = True):
        super().__init__()
        self.sparsity = real("magnitude: sparsity", sparsity, 0, 1)
        self.until = real("magnitude: until", until, 0, 1, "(]")
        self.layerwise, self.gradual = layerwise, gradual

    def share(self, progress: float) -> float:
        """Which share of the weights is masked at this share of a run."""
        if self.gradual:
            return rising(self.sparsity, progress / self.until)
        return self.sparsity if progress >= self.until else 0.0

    def setup(self, run: Run) -> Needs:
        """One phase, with a decision after every epoch."""
        return Needs((Phase("prune", decide_every=1),))

    def decide(self, run: Run) -> Decision:
        """Mask the smallest weights, but never the largest of a layer; those that are masked are 0."""
        share, weights = self.share(run.progress), {s.name: s.weight.detach() for s in run.sites if s.kind == "weight"}
        if self.layerwise:
            small = {name: smallest_weights(weight, share) for name, weight in weights.items()}
        else:
            small = smallest_overall({name: weight.abs() for name, weight in weights.items()}, share)
        return Decision(masks={name: ~part for name, part in small.items()})


def rising(goal: float, progress: float) -> float:
    """A share that rises to a goal, ever more slowly: goal (1 − (1 − t)³), and stays there.

    Args:
        goal: The share in the end.
        progress: t, from 0; the goal is reached at 1.
    """
    return goal * (1 - (1 - min(1.0, progress)) ** 3)
