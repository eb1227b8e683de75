"""What the training loop asks of a network with a posterior, and of one without, alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bayesprune.infer.gated import GatedNet
from bayesprune.infer.held import adopt, remembered
from bayesprune.infer.likelihoods import Likelihood
from bayesprune.infer.outputs import LossOn


class TrainableNet(GatedNet):
    """A `GatedNet` whose outputs mean something, and whose structures can go.

    Args:
        net: The network, with gates or without; it is trained in place.
        likelihood: p(y | outputs).
        num_data: N, the number of training examples.
        loss_on: Which of several outputs counts, see `chosen`.
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood, num_data: int, loss_on: LossOn = None):
        super().__init__(net, loss_on)
        self.likelihood, self.num_data = likelihood, num_data

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that is trained but θ, by name: weights, and parameters of the likelihood."""
        return self.weights() | {f"likelihood.{name}": p for name, p in self.likelihood.named_parameters()}

    def replace(self, net: nn.Module, kept: Mapping[str, Tensor]) -> Tensor:
        """Go on with a smaller network, which the module that this was built of becomes, see `adopt`.

        Args:
            net: The network, made of copies of the modules of the present one.
            kept: By gate name, which entries of the present gates it has left.

        Returns:
            The entries of the present `theta` that are left, shape ``(S',)``.
        """
        places = self.by_gate(torch.arange(self.num_gates))
        self.net = adopt(self.net, net)
        self._connect()
        entries = [places[name][kept[name]] for name in self.gate_names]  # their order may have changed
        return torch.cat([torch.zeros(0, dtype=torch.long), *entries]).to(self.theta.device)

    def snapshot(self) -> Callable[[], None]:
        """Remember the network as it is now.

        Returns:
            A function that brings it back, with structures that went in the meantime.
        """
        net, parts = self.net, (remembered(self.net), remembered(self.likelihood))

        def back() -> None:
            for part in parts:
                part()
            self.net = net
            self._connect()
            self._theta.grad = None

        return back
