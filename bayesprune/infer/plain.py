"""A network that is trained without a posterior: what `fit` takes in place of a `BayesianNet`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bayesprune.infer.gated import GatedNet
from bayesprune.infer.likelihoods import Likelihood
from bayesprune.infer.outputs import LossOn, chosen
from bayesprune.infer.sampler import GateSample
from bayesprune.infer.trainable import TrainableNet


class PlainNet(TrainableNet):
    """A network and what its outputs mean. Gates that it has are on or off, and none is drawn.

    Args:
        net: The network, inputs ``(B, ...)``, one tensor or several; with gates or without. It is trained in place.
        likelihood: What the outputs mean.
        num_data: N, the number of training examples.
        loss_on: Which of several outputs the likelihood sees, see `BayesianNet`.

    Attributes:
        run: Called in place of ``net`` in training, if that takes one tensor and has no gates: a compiled form of it.

    Examples:
        >>> import torch
        >>> from bayesprune.infer import Categorical
        >>> plain = PlainNet(torch.nn.Linear(4, 2), Categorical(), num_data=100)
        >>> plain(torch.zeros(3, 4)).shape, sorted(plain.trained())
        (torch.Size([3, 2]), ['bias', 'weight'])
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood, num_data: int, loss_on: LossOn = None):
        super().__init__(net, likelihood, num_data, loss_on)
        self.example_input = None
        self.run: Any = None

    def forward(self, x: Any, xi: Tensor | None = None, **known: Any) -> Tensor:
        """Outputs of the network, see `GatedNet.forward`; those of ``run`` in training."""
        if self.num_gates or self._noise or not isinstance(x, Tensor):
            return super().forward(x, xi, **known)
        run = self.run if self.run is not None and self.training else self.net
        return chosen(run(x), self.loss_on)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything that is trained, for a torch optimiser, whose own weight decay holds for all of it."""
        parameters = [p for p in self.trained().values() if p.requires_grad]
        return [{"params": parameters}] if parameters else []


def mode_of(net: GatedNet) -> GateSample:
    """Which gates are on where none is drawn, θ > ½; waits for the device."""
    theta = net.theta.detach()
    on = (theta > 0.5).to(theta.dtype)
    return GateSample(on, net.branches_on(on))
