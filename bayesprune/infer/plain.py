"""A network that is trained without a posterior: what `fit` takes in place of a `BayesianNet`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.infer.gated import GatedNet
from bayesprune.infer.held import adopt, remembered
from bayesprune.infer.likelihoods import Likelihood
from bayesprune.infer.sampler import GateSample


class PlainNet(GatedNet):
    """A network and what its outputs mean. Gates that it has are on or off, and none is drawn.

    Args:
        net: The network, inputs ``(B, ...)``, one tensor or several; with gates or without. It is trained in place.
        likelihood: What the outputs mean.
        num_data: N, the number of training examples.

    Attributes:
        run: Called in place of ``net`` in training, if that takes one tensor and has no gates: a compiled form of it.

    Example:
        >>> import torch
        >>> from bayesprune.infer import Categorical
        >>> plain = PlainNet(torch.nn.Linear(4, 2), Categorical(), num_data=100)
        >>> plain(torch.zeros(3, 4)).shape, sorted(plain.trained())
        (torch.Size([3, 2]), ['bias', 'weight'])
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood, num_data: int):
        super().__init__(net)
        self.likelihood, self.num_data = likelihood, num_data
        self.example_input = None
        self.run: Any = None

    def forward(self, x: Any, xi: Tensor | None = None, **known: Any) -> Tensor:
        """Outputs of the network, see `GatedNet.forward`; those of ``run`` in training."""
        if self.run is not None and self.training and not self.num_gates and isinstance(x, Tensor):
            outputs: Tensor = self.run(x)
            return outputs
        return super().forward(x, xi, **known)

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that is trained, by name: weights, and parameters of the likelihood."""
        return self.weights() | {f"likelihood.{name}": p for name, p in self.likelihood.named_parameters()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything that is trained, for a torch optimiser, whose own weight decay holds for all of it."""
        parameters = [p for p in self.trained().values() if p.requires_grad]
        return [{"params": parameters}] if parameters else []

    def replace(self, net: nn.Module, kept: Mapping[str, Tensor]) -> Tensor:
        """Go on with a smaller network, which the module that this was made of becomes.

        Args:
            net: The network, made of copies of the modules of the present one.
            kept: By gate name, which entries of the present gates it has left.

        Returns:
            The entries of the present `theta` that are left, shape ``(S',)``.
        """
        places = self.by_gate(torch.arange(self.num_gates))
        entries = [places[name][kept[name]] for name in self.gate_names if name in kept]
        self.net = adopt(self.net, net)
        self._connect()
        return torch.cat([torch.zeros(0, dtype=torch.long), *entries])

    def snapshot(self) -> Callable[[], None]:
        """Remember the network as it is now; returns a function that brings it back."""
        net, parts = self.net, (remembered(self.net), remembered(self.likelihood))

        def back() -> None:
            for part in parts:
                part()
            self.net = net
            self._connect()

        return back


def mode_of(net: GatedNet) -> GateSample:
    """Which gates are on where none is drawn, θ > ½; waits for the device."""
    theta = net.theta.detach()
    on = (theta > 0.5).to(theta.dtype)
    return GateSample(on, net.branches_on(on))
