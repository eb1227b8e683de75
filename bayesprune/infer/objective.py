"""A batch waiting for gate values: what estimators evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bayesprune.infer.net import BayesianNet


class ReplayedObjective(ABC):
    """An `Objective` whose further passes see the random numbers of its first one and leave no trace in the network.

    Args:
        net: The Bayesian network that is evaluated.
        device: Where the batch lies.
    """

    def __init__(self, net: BayesianNet, device: torch.device):
        self.net = net
        self.shared = net.num_shared
        self.device = device
        self._random: tuple[Tensor, Tensor | None] | None = None

    @abstractmethod
    def losses(self, xi: Tensor, skip: bool) -> Tensor:
        """Negative log-likelihood of every example, shape ``(B,)``, nats."""

    def __call__(self, xi: Tensor, *, skip: bool = False) -> Tensor:
        """Evaluate, with gradient; the state of the random number generators is kept for `again`."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self._random = torch.get_rng_state(), cuda
        return self.losses(xi, skip)

    def again(self, xi: Tensor) -> Tensor:
        """Evaluate without gradient, with the same dropout masks; running statistics stay as they are."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.net.frozen_statistics():
            if self._random is not None:
                torch.set_rng_state(self._random[0])
                if self._random[1] is not None:
                    torch.cuda.set_rng_state(self._random[1], self.device)
            return self.losses(xi, skip=True)


class BatchObjective(ReplayedObjective):
    """The network's own likelihood of a batch, without Pyro in the way: the hot path.

    Args:
        net: The Bayesian network.
        x: Inputs, shape ``(B, ...)``.
        y: Targets, first dimension B.
    """

    def __init__(self, net: BayesianNet, x: Tensor, y: Tensor):
        super().__init__(net, x.device)
        self.x, self.y = x, y

    def losses(self, xi: Tensor, skip: bool) -> Tensor:
        """Negative log-likelihood of every example, shape ``(B,)``, nats."""
        return self.net.likelihood.nll(self.net(self.x, xi, skip=skip), self.y)
