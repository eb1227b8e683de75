"""Running numbers of every gate, which follow it through removals and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayesprune.infer import BayesianNet
from bayesprune.schema import Check, number, record, require, tensor


class Estimates:
    """Numbers that start at 0: some of every gate, shape ``(S,)``, and some of all.

    Args:
        net: The network of the gates.
        mean: Averages a tensor over all processes.

    Attributes:
        net_cost: Latest estimate of ∂L/∂θ for every gate, nats per example, shape ``(S,)``: what keeping the structure
            costs net of what it is worth to the data, so it is positive where the structure should go.
    """

    vectors: ClassVar[tuple[str, ...]] = ("net_cost",)
    """The attributes with one entry a gate."""
    counts: ClassVar[tuple[str, ...]] = ()
    """Those that are single numbers."""
    net_cost: Tensor

    def __init__(self, net: BayesianNet, mean: Callable[[Tensor], Tensor]):
        self.net, self._mean = net, mean
        for name in self.vectors:
            setattr(self, name, torch.zeros_like(net.log_gamma))
        for name in self.counts:
            setattr(self, name, 0)

    def entropy_slope(self) -> Tensor:
        """What the prior adds to ∂L/∂θ besides the price, nats per example: −∂H/∂θ for a fixed one, otherwise 0."""
        theta = self.net.theta.detach().to(self.net_cost.dtype)
        return self.net.prior_type.slope(theta) / self.net.num_data

    def keep(self, kept: Tensor) -> None:
        """Go on with the gates of these indices."""
        for name in self.vectors:
            setattr(self, name, getattr(self, name)[kept])

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs: a copy."""
        vectors = {name: getattr(self, name).cpu().clone() for name in self.vectors}
        return {**vectors, **{name: getattr(self, name) for name in self.counts}}

    def schema(self, gates: int) -> Check:
        """What `state` looks like with so many gates, for those who read it from a file."""
        of_kind = tensor((self.net_cost.dtype,), 1)

        def one_a_gate(value: object, where: str) -> None:
            of_kind(value, where)
            assert isinstance(value, Tensor)
            require(len(value) == gates, where, f"{gates} values", value)

        return record(dict.fromkeys(self.vectors, one_a_gate) | dict.fromkeys(self.counts, number(0)))

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        for name in self.vectors:
            setattr(self, name, state[name].to(self.net_cost.device))
        for name in self.counts:
            setattr(self, name, state[name])
