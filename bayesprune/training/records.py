"""What is written down of a run: its rows, the path of its gates, and what it has taken to compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.errors import NonFiniteLossError
from bayesprune.methods.protocol import Model
from bayesprune.pruning import ExpectedCost, cost, gates_left
from bayesprune.pruning.meter import eval_mode
from bayesprune.training.history import EpochRow, History
from bayesprune.types import Cost, Evidence, Score

TRAINING = 3
"""What an example of a training step is charged: a forward pass counts one, a backward pass two."""


class Records:
    """Keeps the history of a run.

    Args:
        net: The network as the run begins.
        example: One input, shape ``(1, ...)``.
        history: What is written to.

    Attributes:
        start_gates: By gate name, how many gates there were at the start.
        examples: Passes of one example since what they cost was last charged; one with gradient counts three.
    """

    def __init__(self, net: Model, example: Inputs, history: History):
        self.net, self.example, self.history = net, example, history
        self.start_gates = {name: len(theta) for name, theta in net.gate_probs().items()}
        self.start_branches = net.num_branches
        self.examples = 0
        self._counted: tuple[tuple[int, list[bool]], Cost] | None = None
        self._expected: tuple[int, ExpectedCost] | None = None

    def remember(self, origin: Mapping[str, Tensor], evidence: Evidence | None) -> None:
        """Append θ of all starting gates, 0 where removed, to the history, and note what is known of those left.

        Args:
            origin: By gate name, the indices that the structures left had at the start.
            evidence: What the method knows of them, if anything.
        """
        self._note(origin, evidence)
        present = self.net.gate_probs()
        for name, size in self.start_gates.items():
            full = torch.zeros(size, dtype=torch.float32)
            if name in present:
                full[origin[name]] = present[name].cpu().float()
            self.history.thetas.setdefault(name, []).append(full)

    def before_removal(self, origin: Mapping[str, Tensor], evidence: Evidence | None) -> None:
        """Charge what is open, and note by what structures are removed; to be called before they are.

        Args:
            origin: By gate name, the indices that the structures left had at the start.
            evidence: What the method knows of them, if anything.
        """
        self.charge_open()
        self._note(origin, evidence)

    def _note(self, origin: Mapping[str, Tensor], evidence: Evidence | None) -> None:
        if evidence is None:
            return
        for name, known in self.net.by_gate(evidence.stacked()).items():
            nothing = torch.full((self.start_gates[name], 3), torch.nan, dtype=torch.float32)
            self.history.evidence.setdefault(name, nothing)[origin[name]] = known

    def charge(self, examples: int) -> None:
        """Charge the run for passes without gradient."""
        self.examples += examples

    def charge_open(self, more: float = 0.0) -> None:
        """Charge what is open, at what the network costs now; to be called before that changes.

        Args:
            more: Multiply-adds that were no passes, charged too.
        """
        self.history.charged += more
        if self.examples:
            self.history.charged += self.examples * self._expected_macs()
            self.examples = 0

    def add(
        self, found: Mapping[str, Any], score: Score, steps: int, seconds: float, lr: float, checkpoint: Path | None
    ) -> EpochRow:
        """Append the row of an epoch.

        Args:
            found: Fields of the row, for example its loss.
            score: On the validation loader.
            steps: Taken in the run.
            seconds: Duration.
            lr: The learning rate, for messages.
            checkpoint: Where the last one would be, for messages.

        Raises:
            NonFiniteLossError: if the loss, or a running statistic, is not finite.
        """
        net, size = self.net, self.cost()
        self.charge_open()
        if self.start_branches:
            self.history.branches_computed = net.branch_evaluations / (steps * self.start_branches)
        theta = net.theta.detach()
        interior = int(((theta > 0.01) & (theta < 0.99)).sum())
        row = EpochRow(
            **found,
            val_nll=score.nll,
            val_accuracy=score.accuracy,
            gates_left=gates_left(theta),
            gates_converged=1 - interior / max(1, sum(self.start_gates.values())),
            params=size.params,
            macs=size.macs or 0,
            seconds=seconds,
        )
        broken = _not_finite(net.net) if math.isfinite(row.loss) else ""
        if broken or not math.isfinite(row.loss):
            written = checkpoint is not None and checkpoint.exists()
            last = f"the last good checkpoint is {checkpoint}" if written else "no checkpoint was written yet"
            raise NonFiniteLossError(
                f"the training loss was {row.loss} in epoch {row.epoch}{broken}; {last}. Try a lower "
                f"learning rate (now {lr}) or check the inputs' scale"
            )
        self.history.rows.append(row)
        return row

    def cost(self) -> Cost:
        """What the network costs now, counted anew if structures went, or branches are on or off that were not."""
        on = (self.net.theta.detach()[: self.net.num_branches] > 0.5).tolist()
        if self._counted is None or self._counted[0] != (self.net.num_gates, on):
            self._counted = (self.net.num_gates, on), cost(self.net, self.example)
        return self._counted[1]

    def _expected_macs(self) -> float:
        """Multiply-adds of a pass: a branch takes part in a step as often as its gate is on, all else always does."""
        net = self.net
        if not net.num_branches:
            return self.cost().macs or 0
        if self._expected is None or self._expected[0] != net.num_gates:
            with eval_mode(net):
                self._expected = net.num_gates, ExpectedCost(net.net, self.example, ("macs",), traced=net.traced)
        theta = net.theta.detach().clone()
        theta[net.num_branches :] = 1
        return float(self._expected[1](net.by_gate(theta))["macs"])


def _not_finite(net: nn.Module) -> str:
    """What to say of the first running statistic that is not finite; nothing if all are."""
    finite = {name: value.isfinite().all() for name, value in net.named_buffers() if value.is_floating_point()}
    if not finite or bool(torch.stack([*finite.values()]).all()):  # one wait for the device
        return ""
    return f", and {next(name for name, fine in finite.items() if not fine)} of the network is no longer finite"
