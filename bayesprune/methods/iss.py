"""Iterative soft shrinkage: the smallest weights shrink a little after every step (Zhang et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.ranking import smallest_weights


class IterativeSoftShrinkage(Method):
    """Multiplies the smallest weights of each layer by a factor after every step, then masks those that are smallest.

    Which they are is looked up anew at every step, so a weight that grows again is let go. Moments of the optimiser are
    left alone. With the factor 0 it is iterative hard thresholding, the control.

    Args:
        sparsity: Which share of each layer's weights shrinks, and is 0 in the end.
        factor: What they are multiplied by.
        until: After which share of the run the weights are masked for good.

    Raises:
        ConfigError: for a sparsity or an ``until`` outside (0, 1), or a factor outside [0, 1).

    Examples:
        >>> IterativeSoftShrinkage(factor=0.0).options()
        {'sparsity': 0.9, 'factor': 0.0, 'until': 0.5}

    Sources:
        Zhang, Wang et al. 2023, "Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution", ISS-P; there
        the sparsity is the same from the first step on, as here.
    """

    name: ClassVar[str] = "iss"

    @checked_arguments
    def __init__(self, sparsity: float = 0.9, factor: float = 0.95, until: float = 0.5):
        super().__init__()
        self.sparsity = real("iss: sparsity", sparsity, 0, 1)
        self.factor = real("iss: factor", factor, 0, 1, "[)")
        self.until = real("iss: until", until, 0, 1)

    def setup(self, run: Run) -> Needs:
        """Shrink, then train what is left."""
        return Needs((Phase("shrink", share=self.until), Phase("tune", share=1 - self.until, restart=False)))

    def stepped(self, run: Run) -> None:
        """Shrink the smallest weights."""
        if run.phase.name == "shrink":
            for site in run.sites:
                if site.kind == "weight":
                    small = smallest_weights(site.weight, self.sparsity)
                    site.weight.mul_(1 - (1 - self.factor) * small.to(site.weight.dtype))

    def decide(self, run: Run) -> Decision:
        """Mask the smallest weights as the first phase ends."""
        if run.phase.name != "shrink":
            return Decision()
        weights = {site.name: site.weight for site in run.sites if site.kind == "weight"}
        return Decision(masks={name: ~smallest_weights(weight, self.sparsity) for name, weight in weights.items()})
