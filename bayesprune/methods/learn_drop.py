"""Layers that have learnt what they can rest, after Learn & Drop."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.data.inputs import each
from bayesprune.layers import eval_mode
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run

MEMORY = 0.5
"""Which share of a smoothed change is that of the epochs before."""


class LearnAndDrop(Method):
    """Freezes the layers at the beginning of a network that change little any more, and ends when all do.

    The change of a layer in an epoch, ‖ΔW‖ / ‖W‖, smoothed by a half and relative to the largest so far, is its score;
    a layer has *settled* when its score was below ``least`` in ``epochs`` epochs on end. What is computed before the
    first layer that has not settled rests from then on, normalisations included. The network that is left is whole.

    Args:
        least: τ.
        epochs: For how many epochs on end.

    Raises:
        ConfigError: for a score outside (0, 1), or a number of epochs that is not whole and positive.

    Examples:
        >>> LearnAndDrop(least=0.2).options()
        {'least': 0.2, 'epochs': 2}

    Sources:
        After Learn & Drop, of which the abstract was known: scores of how much each layer's parameters change decide
        whether it goes on learning. The score, and that it is the beginning of a network that rests, are ours. What
        rests is computed in every step all the same; its backward pass is saved.
    """

    name: ClassVar[str] = "learn_drop"
    smoothed: Tensor
    largest: Tensor
    settled: Tensor

    @checked_arguments
    def __init__(self, least: float = 0.1, epochs: int = 2):
        super().__init__()
        self.least = real("learn_drop: least", least, 0, 1)
        self.epochs = whole("learn_drop: epochs", epochs)

    def setup(self, run: Run) -> Needs:
        """One phase, looked at after every epoch."""
        self.order = _order(run)
        named = {site.name.rpartition(".")[0] for site in run.sites if site.kind == "weight"}
        self.learners = [name for name in self.order if name in named]
        for buffer in ("smoothed", "largest", "settled"):
            self.register_buffer(buffer, torch.zeros(len(self.learners)))
        return Needs((Phase("train", decide_every=1),), stats=("change",))

    def scores(self, change: Tensor) -> Tensor:
        """The score of each layer, given its change in an epoch; what is kept of the epochs before goes on."""
        first = self.largest == 0
        self.smoothed.copy_(torch.where(first, change, MEMORY * self.smoothed + (1 - MEMORY) * change))
        self.largest.copy_(torch.maximum(self.largest, self.smoothed))
        return self.smoothed / self.largest.clamp(min=1e-30)

    def decide(self, run: Run) -> Decision:
        """Freeze what comes before the first layer that goes on learning."""
        found = run.stats().change
        weights = [f"{name}.weight" if name else "weight" for name in self.learners]
        changes = torch.stack([*(found[name] for name in weights), torch.zeros(())])[:-1]
        low = self.scores(changes.nan_to_num().to(self.settled)) < self.least
        self.settled.copy_(torch.where(low, self.settled + 1, 0.0))
        going = (self.settled < self.epochs).nonzero()[:, 0].tolist()
        if not going:
            return Decision(stop=True)
        return Decision(freeze=frozenset(self.order[: self.order.index(self.learners[going[0]])]))


def _order(run: Run) -> list[str]:
    """Names of the modules that hold tensors of their own, in the order in which they are first computed."""
    net, order = run.net.net, dict[str, None]()
    handles = []
    for name, module in net.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own:
            handles.append(module.register_forward_pre_hook(lambda _, __, name=name: order.setdefault(name)))
    try:
        with eval_mode(net), torch.no_grad():
            run.net(each(run.example, lambda tensor: tensor.to(run.net.theta.device)))
    finally:
        for handle in handles:
            handle.remove()
    return [*order]
