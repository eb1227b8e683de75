"""Dense-sparse-dense training: small weights rest for a third of the run (Han et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.ranking import smallest_weights


class DenseSparseDense(Method):
    """Trains, masks the smallest weights of each layer once, trains what is left, and trains all again from 0.

    A regulariser: the network that it ends with is dense. Each output keeps its largest weight, so that no unit goes
    meanwhile. While weights are masked, so are their gradients and moments. The last phase has a tenth of the learning
    rate. The control is plain training for as many epochs, whose learning rate starts anew as often.

    Args:
        sparsity: Which share of each layer's weights rests in the middle third of the run.

    Raises:
        ConfigError: for a share outside (0, 1).

    Examples:
        >>> DenseSparseDense(sparsity=0.5).options()
        {'sparsity': 0.5}

    Sources:
        Han, Pool, Narang, Mao, Gong et al. 2017, "DSD: Dense-Sparse-Dense Training for Deep Neural Networks"; the
        lengths of the phases and the last learning rate are ours.
    """

    name: ClassVar[str] = "dsd"

    @checked_arguments
    def __init__(self, sparsity: float = 0.3):
        super().__init__()
        self.sparsity = real("dsd: sparsity", sparsity, 0, 1)

    def setup(self, run: Run) -> Needs:
        """Three phases, each with an optimiser of its own."""
        return Needs((Phase("dense"), Phase("sparse"), Phase("dense again", lr=0.1)))

    def decide(self, run: Run) -> Decision:
        """Mask weights after the first phase, and lift the masks after the second."""
        if run.phase.name != "dense":
            return Decision(lift=run.phase.name == "sparse")
        masks = {}
        for site in run.sites:
            if site.kind == "weight":
                sizes = site.weight.detach().abs().flatten(1)
                largest = (sizes == sizes.amax(1, keepdim=True)).view(site.weight.shape)
                masks[site.name] = ~smallest_weights(site.weight, self.sparsity) | largest
        return Decision(masks=masks)
