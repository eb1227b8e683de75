"""Statistics of activations, gradients and weights, as methods ask for them: one pass, whatever is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.infer.targets import Targets, losses, values_of
from bayesprune.layers import eval_mode
from bayesprune.methods.protocol import ActGrad, Batch, InOut, Model, Needs, Site, Stats
from bayesprune.schema import shaped
from bayesprune.training.activations import OF_GATES, Activations
from bayesprune.training.engine import Engine
from bayesprune.training.views import sites_of
from bayesprune.types import IndexMap

KEEPING = ("pooled", "in_out", "vectors")
"""What keeps something of every example."""
OF_PASSES = (*OF_GATES, "zeros_in", "in_out", "vectors")


class Statistics:
    """Computes what a method needs to know.

    Args:
        net: What is trained.
        needs: What the method asked for.
        engine: Where.

    Attributes:
        before: By name of a weight, what it was after the last decision, or as the phase began; kept for ``change``.

    Raises:
        ConfigError: for an unknown statistic, and for no number of examples where something of each is kept.
    """

    def __init__(self, net: Model, needs: Needs, engine: Engine):
        self.net, self.names, self.limit, self.engine = net, needs.stats, needs.examples, engine
        unknown = [name for name in self.names if name not in (*OF_PASSES, "change")]
        if unknown:
            raise ConfigError(f"Needs.stats: {unknown[0]!r} is none; known are {', '.join((*OF_PASSES, 'change'))}")
        if self.limit is None and any(name in KEEPING for name in self.names):
            raise ConfigError(
                "Needs.examples: pooled, in_out and vectors keep something of every example; say of how many"
            )
        self.before: dict[str, Tensor] = {}

    # what changes --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Measure changes from here on."""
        if "change" in self.names:
            sites = sites_of(self.net.net)
            self.before = {s.name: s.weight.detach().clone() for s in sites if s.kind == "weight"}

    def follow(self, index: IndexMap) -> None:
        """Go on with a network that became smaller."""
        self.before = {name: index.select(name, value) for name, value in self.before.items() if name in index.kept}

    def load(self, before: Mapping[str, Tensor]) -> None:
        """Take up the weights of a checkpoint from which changes are measured.

        Args:
            before: What they were.

        Raises:
            Mismatch: if they are not those of this network.
        """
        self.begin()
        if self.before or before:
            shaped(self.before)(before, "before")
        self.before = {name: value.to(self.before[name].device) for name, value in before.items()}

    def _changes(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        weights = {s.name: s.weight.detach() for s in sites if s.kind == "weight"}
        return {name: ((weights[name] - old).norm() / weights[name].norm()).cpu() for name, old in self.before.items()}

    # a pass --------------------------------------------------------------------------------------------------------

    @property
    def passes(self) -> int:
        """What an example is charged, in forward passes."""
        return 3 if "act_grad" in self.names else int(any(name in OF_PASSES for name in self.names))

    def __call__(self, sites: Sequence[Site], batches: Iterator[Batch]) -> Stats:
        """Compute them, of the network as it is now.

        Args:
            sites: Where a method may act.
            batches: Those of an epoch of training.
        """
        found = Stats(change=self._changes(sites))
        if not self.passes:
            return found
        seen, targets = Activations(sites, self.names), []
        try:
            with eval_mode(self.net):
                for x, y, size in self._cut(batches):
                    self._look(seen, x, y)
                    found.examples += size
                    if any(name in KEEPING for name in self.names):
                        targets.append(values_of(y).cpu())
        finally:
            seen.remove()
        if targets:
            found.targets = self._joined(targets)
        self._collect(seen, found)
        return found

    def _cut(self, batches: Iterator[Batch]) -> Iterator[tuple[Inputs, Targets, int]]:
        """The batches as far as they are wanted: this process's inputs and targets, the number of all."""
        done = 0
        for x, y, part in batches:
            left = part.size if self.limit is None else min(part.size, self.limit - done)
            mine = min(len(y), max(0, left - part.start))
            if mine:
                yield x[:mine], y[:mine], left
            done += left
            if done == self.limit:
                return

    def _look(self, seen: Activations, x: Inputs, y: Targets) -> None:
        """Let one batch go through the network."""
        with torch.set_grad_enabled("act_grad" in self.names):
            with self.engine.autocast():
                outputs = self.net(x)
                loss = losses(self.net.likelihood, outputs, y).sum()
            seen.end_batch(len(y), loss)

    # all processes -------------------------------------------------------------------------------------------------

    def _mean(self, total: Tensor, count: float) -> Tensor:
        """A mean over the examples of all processes."""
        return (self.engine.mean(total) / self.engine.mean(total.new_tensor(count))).cpu()

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of all batches, those of one process after those of another."""
        return torch.cat(self.engine.gather(torch.cat(list(parts))))

    def _collect(self, seen: Activations, found: Stats) -> None:
        """Write down what was seen."""
        sums = {key: self._mean(total, seen.examples) for key, total in seen.sums.items()}
        for (statistic, name), value in sums.items():
            if statistic == "act_grad":
                found.act_grad[name] = ActGrad(value, sums["act_grad_size", name])
            elif statistic in ("mean_abs", "rank"):
                getattr(found, statistic)[name] = value
        found.pooled = {name: self._joined(rows) for name, rows in seen.pooled.items()}
        found.vectors = {name: self._joined(rows) for name, rows in seen.vectors.items()}
        found.zeros_in = {name: self._mean(zeros, seen.entries[name]) for name, zeros in seen.zeros.items()}
        found.in_out = {
            name: InOut(self._joined(seen.inputs[name]), self._joined(rows)) for name, rows in seen.outputs.items()
        }
