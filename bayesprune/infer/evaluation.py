"""A batch waiting for gate values: what estimators evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.infer.model import GatedModel
from bayesprune.infer.random_state import RandomState, replaying
from bayesprune.infer.resumption import BlockPass
from bayesprune.infer.targets import Targets, losses


class Objective(Protocol):
    """A batch and a network, waiting for gate values.

    Attributes:
        shared: How many leading gates have one value for the whole batch.
        generator: Where random choices are drawn that every process must make alike; ``None`` for torch's global one.
    """

    shared: int
    generator: torch.Generator | None

    def __call__(self, xi: Tensor, *, skip: bool = False, watch: Sequence[int] = ()) -> Tensor:
        """Differentiable negative log-likelihoods, shape ``(B,)``.

        ``skip`` leaves out branches that are off; ``watch`` names the shared gates that `flipped` will be asked for.
        """

    def again(self, xi: Tensor) -> Tensor:
        """The same without gradient, with the dropout masks of the first call; running statistics stay as they are."""

    def flipped(self, s: int) -> Tensor:
        """As `again`, with the gates of the last call, but for the shared gate ``s``; computed from its block on."""


Estimator = Callable[[Objective, Tensor, Tensor, Tensor], Tensor]
"""(objective, θ of shape (S,), ξ of shape (rows, S) drawn from θ, ρ of shape (S,)) → scalar loss, nats per example."""


class ReplayedObjective(ABC):
    """An `Objective` whose further passes see the random numbers of its first one and leave no trace in the network.

    A branch that the first pass left out has no random numbers there. In a further pass it draws new ones: if it took
    some of the first pass, what follows it would take the same ones, or they would be those of the next step.

    Args:
        net: The model that is evaluated.
        device: Where the batch lies.
    """

    def __init__(self, net: GatedModel, device: torch.device):
        self.net = net
        self.shared = net.num_shared
        self.generator: torch.Generator | None = None
        self.device = device
        self._random: RandomState | None = None
        self._xi: Tensor | None = None

    @abstractmethod
    def losses(self, xi: Tensor, skip: bool) -> Tensor:
        """Negative log-likelihood of every example times its weight, shape ``(B,)``, nats.

        Args:
            xi: Gate values.
            skip: Whether branches that are off are left out.
        """

    def __call__(self, xi: Tensor, *, skip: bool = False, watch: Sequence[int] = ()) -> Tensor:
        """Evaluate, with gradient; what further passes need to know of this one is kept.

        Args:
            xi: Gate values.
            skip: Whether branches that are off are left out.
            watch: Shared gates that `flipped` will be asked for.
        """
        self._remember(xi)
        return self.losses(xi, skip)

    def _remember(self, xi: Tensor) -> None:
        self._random, self._xi = RandomState.now(self.device), xi.detach()

    def again(self, xi: Tensor) -> Tensor:
        """Evaluate without gradient, with the same dropout masks; running statistics stay as they are."""
        with torch.no_grad(), self._replaying():
            self._restore()
            return self.losses(xi, skip=True)

    def flipped(self, s: int) -> Tensor:
        """Evaluate as `again`, the gates those of the last call but for the shared gate ``s``."""
        assert self._xi is not None
        xi = self._xi.clone()
        xi[:, s] = (xi[:, s] < 0.5).to(xi.dtype)
        return self.again(xi)

    def _replaying(self, apart: Sequence[nn.Module] = ()) -> ExitStack:
        """Leave random numbers, but for those of modules ``apart``, and running statistics as they are now."""
        stack = ExitStack()
        stack.enter_context(replaying(self.device, apart))
        stack.enter_context(self.net.frozen_statistics())
        return stack

    def _restore(self) -> None:
        """Take up the random numbers of the first pass again, if there was one."""
        if self._random is not None:
            self._random.restore()


class BatchObjective(ReplayedObjective):
    """The network's own likelihood of a batch, without Pyro in the way: the hot path.

    Args:
        net: The model.
        x: Inputs, shape ``(B, ...)``.
        y: Targets, first dimension B, with or without weights.
        on: For the branch gates, whether they are on in the gates that it will be called with, where the host knows;
            ``None`` to read them off the gates, which waits for the device.
        module: What to call instead of ``net`` in the first pass (a wrapper of it).
        generator: Where estimators draw their own choices; ``None`` for torch's global one.

    Examples:
        >>> from bayesprune import BayesianNet, layers
        >>> net = nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> bnn = BayesianNet(net, "gaussian", num_data=8)
        >>> objective = BatchObjective(bnn, torch.zeros(8, 2), torch.zeros(8, 1))
        >>> objective(torch.ones(1, 3)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        net: GatedModel,
        x: Inputs,
        y: Targets,
        *,
        on: Sequence[bool] | None = None,
        module: Callable[..., Tensor] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__(net, x.device)
        self.x, self.y, self.on = x, y, on
        self.generator = generator
        self.module = net if module is None else module
        self._seen: dict[int, BlockPass] = {}

    def losses(self, xi: Tensor, skip: bool) -> Tensor:
        """Negative log-likelihood of every example times its weight, shape ``(B,)``, nats."""
        return losses(self.net.likelihood, self.net(self.x, xi, skip=skip), self.y)

    def __call__(self, xi: Tensor, *, skip: bool = False, watch: Sequence[int] = ()) -> Tensor:
        """Evaluate, with gradient; the blocks of the gates ``watch`` are kept, so that `flipped` can resume there."""
        self._remember(xi)
        slots = sorted({self.net.slot_of(s) for s in watch})
        with ExitStack() as stack:
            self._seen = stack.enter_context(self.net.resumption.watch(slots, self.device)) if slots else {}
            outputs = self.module(self.x, xi, skip=skip, on=self.on)
        return losses(self.net.likelihood, outputs, self.y)

    def again(self, xi: Tensor) -> Tensor:
        """Evaluate without gradient, with the same dropout masks but for branches that the last call left out."""
        on = self.net.branches_on(xi)
        joining = [s for s, (now, before) in enumerate(zip(on, self._last_on(), strict=False)) if now and not before]
        with torch.no_grad(), self._replaying(self.net.branches(joining)):
            self._restore()
            return losses(self.net.likelihood, self.net(self.x, xi, skip=True, on=on), self.y)

    def flipped(self, s: int) -> Tensor:
        """Evaluate as `again`, the gates those of the last call but for the shared gate ``s``, from its block on."""
        seen = self._seen.get(self.net.slot_of(s))
        if seen is None or not seen.intact:
            return super().flipped(s)
        assert self._xi is not None
        on = self._last_on()
        joining = [s] if s < len(on) and not on[s] else []
        with torch.no_grad(), self._replaying(self.net.branches(joining)):
            return losses(self.net.likelihood, self.net.resume(self.x, self._xi, s, seen, on), self.y)

    def _last_on(self) -> Sequence[bool]:
        """Which of the branch gates were on in the last call; none, if there was none."""
        if self.on is not None or self._xi is None:
            return self.on or ()
        return self.net.branches_on(self._xi)
