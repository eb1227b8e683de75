"""The gates of one batch after another, drawn so that neither other processes nor the device need be waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.infer.draws import rows_below, thresholds
from bayesprune.infer.net import BayesianNet
from bayesprune.layers.gate import distinct_rows

LAG = 4
"""After how many draws a copy of θ that was started on an accelerator is used: by then it has long arrived."""


class GateSample(NamedTuple):
    """The gates of a batch.

    Attributes:
        xi: Gate values, shape ``(rows, S)``, ordered as `BayesianNet.theta`.
        on: Which of the branch gates are on.

    Examples:
        >>> GateSample(torch.ones(1, 2), [True, True]).on
        [True, True]
    """

    xi: Tensor
    on: list[bool]


class GateSampler:
    """Draws ξ ~ Bern(θ) for one batch after another, with random numbers of its own.

    Processes whose samplers have the same seed draw the same gates: a branch is on for all of them or for none, and the
    gates that each example draws are those that it would get if one process held the whole batch.

    Branch gates, one number for the whole batch, are drawn on the host, which thereby knows what to skip. On an
    accelerator it works with a copy of their θ that is some steps old, since the present one has still to be computed
    there; `refresh` starts a new copy, `synchronize` waits for it.

    While θ stays what it was at the last `synchronize`, the host knows of all gates which are certain. Where every θ of
    the network is 0 or 1 nothing is drawn: all examples have the one vector of gates that there is.

    Args:
        net: The network.
        seed: Seed of all draws.

    Attributes:
        generator: Host generator, also for further choices that processes must make alike.

    Examples:
        >>> from torch import nn
        >>> from bayesprune import layers
        >>> net = nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> sampler = GateSampler(BayesianNet(net, "gaussian", num_data=8), seed=0)
        >>> sampler(rows=8).xi.shape
        torch.Size([8, 3])
    """

    @checked_arguments
    def __init__(self, net: BayesianNet, seed: int):
        self.net = net
        seed = whole("GateSampler: seed", seed, 0, 2**63 - 1)
        self.generator = torch.Generator().manual_seed(seed)
        device = net.theta.device
        self._draws = 0
        self._thresholds: tuple[int, Tensor] | None = None
        self._units = self.generator if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
        self.synchronize()

    def __call__(self, rows: int, start: int = 0, stop: int | None = None, *, repeated: bool = True) -> GateSample:
        """The gates of a batch.

        Args:
            rows: Examples in the batches of all processes together.
            start: First example of this process.
            stop: The one after its last; ``None`` for ``rows``.
            repeated: Whether there is a row for each example. Otherwise those that examples have in turn may be there
                once, which is enough to multiply by.
        """
        self._advance()
        net = self.net
        rows = 1 if net.num_shared == net.num_gates else rows
        stop = rows if stop is None else min(stop, rows)
        start = min(start, stop - 1)
        if self._certain is not None and self._is_known():
            return GateSample(net.theta.detach().expand(stop - start if repeated else 1, -1), self._certain)
        distinct, on, parts = distinct_rows(rows), [], []
        if net.num_branches:
            chosen = torch.rand(net.num_branches, generator=self.generator) < self._branches
            on = chosen.tolist()
            branches = chosen.to(net.theta.dtype).to(net.theta.device, non_blocking=True)
            parts.append(branches.expand(distinct, -1))
        if net.num_branches < net.num_gates:
            parts.append(self._drawn_units(distinct))
        drawn = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if not repeated and start % distinct == stop % distinct == 0:
            return GateSample(drawn, on)
        begun = start // distinct * distinct
        return GateSample(drawn.repeat(-(-(stop - begun) // distinct), 1)[start - begun : stop - begun], on)

    def _drawn_units(self, rows: int) -> Tensor:
        """So many draws of the gates behind those of branches, of which some may be shared by the rows."""
        net, theta = self.net, self.net.theta
        if self._thresholds is None or self._thresholds[0] != theta._version:
            self._thresholds = theta._version, thresholds(theta[net.num_branches :])
        drawn = rows_below(self._thresholds[1], rows, theta.dtype, self._units)
        shared = net.num_shared - net.num_branches
        if shared:
            drawn[:, :shared] = drawn[:1, :shared]
        return drawn

    def refresh(self) -> None:
        """Take note that θ moved."""
        theta = self._theta()
        if theta.device.type != "cuda":
            self._branches = theta.cpu()
            return
        copy = torch.empty(theta.shape, dtype=theta.dtype, pin_memory=True)
        copy.copy_(theta, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(theta.device))
        self._pending.append((self._draws + LAG, copy, done))

    def synchronize(self) -> None:
        """Use θ as it is now; waits for the device."""
        theta, branches = self.net.theta.detach().float().cpu(), self.net.num_branches
        self._branches = theta[:branches]
        self._certain = (self._branches == 1).tolist() if bool(((theta == 0) | (theta == 1)).all()) else None
        units = theta.split(self.net.draw.sizes)[branches:]
        self._whole = [True if bool((part == 1).all()) else None for part in units]
        self._version, self._thresholds = self.net.theta._version, None
        self._pending: list[tuple[int, Tensor, torch.cuda.Event]] = []
        self._draws = 0

    @property
    def whole(self) -> Sequence[bool | None]:
        """For the gates behind those of branches, by slot, True where all of one are on for certain, else None.

        Empty where nothing is known of θ as it is now.
        """
        return self._whole if self._is_known() else ()

    def _is_known(self) -> bool:
        """Whether θ is what it was at the last `synchronize`."""
        return self.net.theta._version == self._version

    def _theta(self) -> Tensor:
        return self.net.theta.detach()[: self.net.num_branches].float()

    def _advance(self) -> None:
        """Use the copies whose turn it is."""
        while self._pending and self._pending[0][0] <= self._draws:
            _, self._branches, done = self._pending.pop(0)
            done.synchronize()
        self._draws += 1

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {"host": self.generator.get_state(), self._units.device.type: self._units.get_state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up the state of a checkpoint, with θ as it is now."""
        self.generator.set_state(state["host"])
        kind = self._units.device.type  # a run that moved to another kind of device goes on with other unit gates
        if self._units is not self.generator and kind in state:
            self._units.set_state(state[kind])
        self.synchronize()
