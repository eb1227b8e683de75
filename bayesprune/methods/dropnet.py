"""dropnet: units that are little active go, cycle by cycle, and what is left starts anew (Tan & Motani 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, gates_of
from bayesprune.methods.protocol import Decision, Method, Needs, Run
from bayesprune.methods.protocol.cycles import cycles_of
from bayesprune.methods.protocol.ranking import whole_part


class DropNet(Method):
    """Drops units whose mean |activation| over the training set is smallest, at the end of every cycle but the last.

    A unit is what a gate of several multiplies; place gates after the activation function. Every cycle trains what is
    left from the initial weights, with a new optimiser. Of each gate a share of the units that are left goes, at least
    one, but never the last; of equal ones the first. A gate on a branch stays.

    Args:
        share: Which share of a gate's units goes at a time.
        cycles: How often is trained; a shorter run has as many cycles as epochs.

    Raises:
        ConfigError: for a share outside (0, 1), or a number of cycles that is not whole and positive; and before
            training, if there is no second cycle, or no gate of several units.

    Examples:
        >>> method = DropNet(share=0.5)
        >>> method.quiet(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, True, False])).tolist()
        [False, True, False, False]
    """

    name: ClassVar[str] = "dropnet"

    @checked_arguments
    def __init__(self, share: float = 0.2, cycles: int = 12):
        super().__init__()
        self.share = real("dropnet: share", share, 0, 1)
        self.cycles = whole("dropnet: cycles", cycles)

    def setup(self, run: Run) -> Needs:
        """One phase a cycle.

        Raises:
            ConfigError: if there are no units to drop.
        """
        if not self._gates(run):
            raise ConfigError("dropnet: no gate holds several units; put gates on layers, or let bp.convert put them")
        phases = cycles_of("DropNet", self.cycles, run.epochs)
        self.last = phases[-1].name
        return Needs(phases, stats=("mean_abs",))

    def decide(self, run: Run) -> Decision:
        """Switch off what is least active of each gate."""
        if run.phase.name == self.last:
            return Decision()
        gates = self._gates(run)
        sizes = run.stats().mean_abs
        return Decision(off={name: self.quiet(sizes[name], gate.mode().bool().cpu()) for name, gate in gates.items()})

    def _gates(self, run: Run) -> dict[str, Gate]:
        """The gates of several units, by name."""
        return {name: gate for name, gate in gates_of(run.net.net).items() if gate.size > 1}

    def quiet(self, sizes: Tensor, left: Tensor) -> Tensor:
        """Which units go, bool.

        Args:
            sizes: Mean |activation|, shape ``(size,)``.
            left: Which units are on, bool.
        """
        off = torch.zeros_like(left)
        count = int(left.sum())
        going = min(max(1, whole_part(self.share, count)), count - 1)
        off[sizes.masked_fill(~left, torch.inf).argsort(stable=True)[:going]] = True
        return off
