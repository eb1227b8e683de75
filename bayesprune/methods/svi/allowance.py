"""What exact differences may cost: a share of the multiply-adds of all steps so far, counted and not timed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.flip_costs import FlipCosts
from bayesprune.schema import Check, number, record

LEAST = 32
"""With how many examples gates are measured at least, if a batch has so many."""


class Allowance:
    """An account of multiply-adds: steps of the weights earn, flips of gates spend, and what is left is kept.

    All numbers are of all processes together, so that all decide alike.

    Args:
        net: The network.
        share: Which part of the multiply-adds of all steps so far exact differences may take.

    Attributes:
        earned: Multiply-adds of the steps so far, each as in the network that there was when it was next looked at.
        steps: How many steps are not part of it yet.
        examples: How many examples they had.
        spent: Multiply-adds of what was measured.
        fill: Which part of what was foreseen the last flips took, since where nothing changes nothing is computed.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from bayesprune import layers
        >>> net = BayesianNet(nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.Linear(3, 1)), num_data=10)
        >>> allowance = Allowance(net.eval(), share=0.1)
        >>> for _ in range(60):
        ...     allowance.earn(examples=8)
        >>> allowance.affordable(torch.zeros(8, 2), size=8, candidates=torch.arange(3), least=4)
        (3, 8)
    """

    names = ("earned", "steps", "examples", "spent", "fill")

    def __init__(self, net: BayesianNet, share: float):
        self.net, self.share = net, share
        self.earned, self.steps, self.examples, self.spent, self.fill = 0.0, 0, 0, 0.0, 1.0
        self._costs: FlipCosts | None = None

    def earn(self, examples: int) -> None:
        """Note a step of the weights on so many examples."""
        self.steps += 1
        self.examples += examples

    def affordable(self, x: Inputs, size: int, candidates: Tensor, least: int) -> tuple[int, int]:
        """How many gates can be measured, and with how many examples.

        Args:
            x: Inputs, of which the first example is looked at.
            size: Examples of the batch.
            candidates: The gates, those first that matter most, on the host.
            least: With how many examples a gate is measured at least, if there are as many.
        """
        costs = self._look(x)
        left = self.share * self.earned - self.spent - costs.launch
        flips, launches = costs.flips[candidates] * self.fill, costs.launches[candidates]
        least = min(size, least)
        gates = int((costs.base * least + (flips * least + launches).cumsum(0) <= left).sum())
        if not gates:
            return 0, 0
        each = max(1.0, costs.base + float(flips[:gates].sum()))
        return gates, min(size, int((left - float(launches[:gates].sum())) / each))

    def spend(self, examples: int, flipped: Tensor, pairs: Tensor) -> None:
        """Note that gates were measured.

        Args:
            examples: With how many examples.
            flipped: Which gates, bool, shape ``(S,)``, on the host.
            pairs: For each gate the number of examples in which its flip was computed, shape ``(S,)``, on the host.
        """
        assert self._costs is not None
        costs = self._costs
        done, foreseen = float(costs.flips @ pairs.double()), examples * float(costs.flips[flipped].sum())
        self.fill = max(done / foreseen, 0.01) if foreseen else 1.0
        self.spent += costs.base * examples + costs.launch + float(costs.launches[flipped].sum()) + done

    def _look(self, x: Inputs) -> FlipCosts:
        """What all costs now, with the steps since the last look added to what is earned."""
        if self._costs is None or len(self._costs.flips) != self.net.num_gates:
            self._costs = FlipCosts(self.net, x)
        self.earned += self._costs.steps(self.steps, self.examples)
        self.steps = self.examples = 0
        return self._costs

    # checkpoints ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {name: getattr(self, name) for name in self.names}

    def schema(self) -> Check:
        """What `state` looks like, for those who read it from a file."""
        return record(dict.fromkeys(self.names, number(0)))

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        for name in self.names:
            setattr(self, name, state[name])
