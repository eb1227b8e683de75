"""While settling: which steps bring derivatives of all gates, and when exact differences correct them."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.data.inputs import joined, shapes_of
from bayesprune.data.spans import Span
from bayesprune.infer import BayesianNet, GateSample, GateSampler
from bayesprune.infer.derivatives import NUDGE
from bayesprune.infer.targets import joined_targets
from bayesprune.methods.protocol import Batch, Run
from bayesprune.methods.svi.allowance import LEAST, Allowance
from bayesprune.methods.svi.exact import ExactSteps
from bayesprune.methods.svi.schedule import Schedule

DRAWS, REPEATS = 32, 4
"""Under a fixed prior so many draws of gates and weights are measured between two steps of θ, as far as it takes no
more than so many of a batch."""
TOGETHER = 40
"""Under a fixed prior small batches are measured together, as soon as they have so many examples: the calls of a
measurement take longer than what they compute. Draws of weights are then fewer, since each is of all of them."""


class Settling:
    """Gathers what `ExactSteps` go by.

    Where training decides about gates, every ``every``-th step of the weights also takes the derivatives of the loss in
    the gates that each example draws, ∂C/∂ξ_s at the drawn gates, for which its backward pass goes on to them; and at
    the first of these after each step of θ, with the same draws, exact differences of some gates and examples. Under a
    fixed prior all gates are measured with all examples of every step, those of some small batches at once. Either as
    far as the `Allowance` covers it.

    Args:
        net: The network.
        sampler: The gates of its batches.
        exact: The steps of θ.
        schedule: The phases of the run.
        every: At every so-many-th step of the weights derivatives are taken.

    Attributes:
        allowance: What exact differences may cost.
    """

    def __init__(self, net: BayesianNet, sampler: GateSampler, exact: ExactSteps, schedule: Schedule, every: int):
        self.net, self.sampler, self.exact, self.schedule = net, sampler, exact, schedule
        self.every = min(every, schedule.settle_every)
        self.allowance = Allowance(net, schedule.exact_share)
        self._drawn: GateSample | None = None
        self._waiting: list[tuple[Batch, GateSample]] = []

    def watched(self, drawn: GateSample, step: int) -> GateSample:
        """The gates of a step, such that their derivatives can be had where they are due.

        Args:
            drawn: The gates.
            step: The step of the weights.
        """
        due = self.schedule.phase(step) == "settle" and self.net.num_gates and self._position(step) % self.every == 0
        if not due or self.net.num_shared == self.net.num_gates or not self.net.prior_type.decides:
            self._drawn = None
            return drawn
        self._drawn = GateSample(drawn.xi.clamp(min=NUDGE).requires_grad_(), drawn.on)
        return self._drawn

    def gather(self, run: Run, drawn: GateSample, step: int) -> None:
        """After a step of settling: take its derivatives, and measure if it is time.

        Args:
            run: The run.
            drawn: The gates of the step, as they were before `watched`.
            step: The step of the weights that was just taken.
        """
        part, slopes = run.batch.part, self._slopes(run)
        values = None if slopes is None else self.exact.add_values(slopes, drawn.xi, part.size)
        if self.net.prior_type.decides:
            if self._position(step) == 0:
                self._measure(run, run.batch, drawn, values)
            return
        for repeat in range(min(REPEATS, max(1, DRAWS // self.schedule.settle_every))):
            self._wait(run, drawn if repeat == 0 else self.sampler(*part))
        if self._position(step + 1) == 0 or (step + 1) % self.schedule.steps_per_epoch == 0:
            self._measure_waiting(run)  # before θ moves, and before a checkpoint may be written

    def _wait(self, run: Run, drawn: GateSample) -> None:
        """Measure a batch, under a fixed prior, with others that wait if it is small and gates are each example's own.

        Args:
            run: The run.
            drawn: Its gates.
        """
        batch = run.batch
        if self._waiting and shapes_of(self._waiting[0][0].x) != shapes_of(batch.x):
            self._measure_waiting(run)
        self._waiting.append((batch, drawn))
        enough = sum(waiting.part.size for waiting, _ in self._waiting) >= TOGETHER
        if enough or self.net.num_shared or run.engine.world_size > 1:  # all processes measure in the same steps
            self._measure_waiting(run)

    def _measure_waiting(self, run: Run) -> None:
        """Measure the batches that wait, at once."""
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            self._measure(run, *waiting[0], None)
        elif waiting:
            batches, gates = zip(*waiting, strict=True)
            size = sum(batch.part.size for batch in batches)
            x, y = joined([batch.x for batch in batches]), joined_targets([batch.y for batch in batches])
            drawn = GateSample(torch.cat([each.xi for each in gates]), gates[0].on)
            self._measure(run, Batch(x, y, Span(size, 0, len(y))), drawn, None)

    def _slopes(self, run: Run) -> Tensor | None:
        """The derivatives that the step left in its gates, shape ``(B, S)``."""
        drawn, self._drawn = self._drawn, None
        if drawn is None or drawn.xi.grad is None:
            return None
        slopes = drawn.xi.grad * (run.batch.part.size / run.engine.world_size)  # see `Trainer.train_step`
        slopes[:, : self.net.num_shared] = 0
        return slopes

    def _measure(self, run: Run, batch: Batch, drawn: GateSample, values: Tensor | None) -> None:
        """Measure what is worth it and affordable; under a fixed prior all gates with all examples, or nothing.

        Args:
            run: The run.
            batch: The examples.
            drawn: Their gates.
            values: v at them, see `CorrectedDifferences`, if there are any.
        """
        (x, y, part), net = batch, self.net
        candidates, some = self.exact.candidates(), net.prior_type.decides
        with run.engine.whole(read_only=True):
            number, examples = self.allowance.affordable(
                run.example, part.size, candidates, LEAST if some else part.size
            )
            if not number or (number < len(candidates) and not some):
                return
            flipped = torch.zeros(net.num_gates, dtype=torch.bool).index_fill_(0, candidates[:number], True)
            rows = min(len(y), -(-examples * len(y) // part.size))
            size = int(_total(run, torch.tensor(rows)))
            run.engine.average_statistics(net)
            gates, values = GateSample(drawn.xi[:rows], drawn.on), None if values is None else values[:rows]
            with run.engine.autocast():
                wanted = flipped.to(net.theta.device)
                pairs = self.exact.add(x[:rows], y[:rows], gates, size, values=values, wanted=wanted)
        self.allowance.spend(size, flipped, _total(run, pairs).cpu())

    def _position(self, step: int) -> int:
        """How many steps after the last one of θ."""
        return (step - self.schedule.settle_start) % self.schedule.settle_every


def _total(run: Run, counts: Tensor) -> Tensor:
    """The sum of whole numbers over all processes."""
    if run.engine.world_size == 1:
        return counts
    mean = run.engine.mean(counts.to(run.net.theta.device, torch.float64))
    return (mean * run.engine.world_size).round_().long()
