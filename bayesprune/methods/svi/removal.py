"""Which structures go under variational inference: those that are off for good and that the data do not want back."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from bayesprune.errors import GateError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual
from bayesprune.methods.protocol import Run
from bayesprune.methods.svi.gates import GateUpdates
from bayesprune.methods.svi.penalties.base import PRICE
from bayesprune.pruning import RemovalMonitor, shrink


class GateRemoval:
    """Removes structures whose gates have converged to 0, and sees that no layer is left empty.

    What may go need not go at once: structures whose gates stay off wait until their removal pays.

    Args:
        net: The network.
        run: The run that it is trained in, which makes it smaller.
        updates: The steps of θ.
        patience: Consecutive checks before a removal.
        may_go: Which of the structures that are off for good may go, given these and the net cost of all.
        pays: Says of structures that may go, bool, shape ``(S,)``, whether it pays to remove them now.
        blame: What asks for too much where a layer is emptied, for warnings.
    """

    def __init__(
        self,
        net: BayesianNet,
        run: Run,
        updates: GateUpdates,
        patience: int,
        may_go: Callable[[Tensor, Tensor], Tensor],
        pays: Callable[[Tensor], bool],
        blame: str = PRICE,
    ):
        self.net, self.run, self.updates, self._may_go, self._pays, self._blame = net, run, updates, may_go, pays, blame
        self.monitor = RemovalMonitor(net.num_gates, patience, net.theta.device)

    def check(self) -> bool:
        """Look at every gate once and remove what may go, if it pays; whether the network became smaller."""
        ready = self.monitor.check(self.net.theta.detach(), self.updates.least_cost)
        ready = self._may_go(ready, self.updates.net_cost) if bool(ready.any()) else ready
        return bool(ready.any()) and self._pays(ready) and self._remove(ready)

    def clear(self, forced: Tensor) -> bool:
        """When θ has come to rest: remove every structure whose θ is 0, whatever the evidence; as `check` otherwise.

        Under a fixed prior, whose θ never rest, remove those that wait.

        Args:
            forced: For the record, which are off for the sake of a budget, shape ``(S,)``, bool.
        """
        off = self.net.theta.detach() == 0
        return self._remove(off if self.net.prior_type.decides else off & self.monitor.ready, forced)

    def _remove(self, ready: Tensor, forced: Tensor | None = None) -> bool:
        """Remove the structures in ``ready`` as far as they can go now.

        Args:
            ready: Shape ``(S,)``, bool.
            forced: Which of them a budget forces off; ``None`` for none.
        """
        if not bool(ready.any()):
            return False
        off = {name: mask for name, mask in self.net.by_gate(ready).items() if bool(mask.any())}
        try:
            kept = self.run.remove(off, self.updates.net_cost, forced)
        except GateError:  # a layer would be left empty
            self._spare_last(off)
            try:
                kept = self.run.remove(off, self.updates.net_cost, forced)
            except GateError as error:
                warnings.warn(f"removal put off: {error}", stacklevel=2)
                kept = None
        if kept is None:  # what is off cannot go yet: others still write where it wrote
            self.monitor.reset()
            return False
        self.updates.keep(kept)
        self.monitor.keep(kept)
        return True

    @torch.no_grad()
    def rest(self) -> None:
        """Bring every θ to the nearer of 0 and 1, where the objective's minima are, and leave no layer empty.

        From here on the weights are trained in the very network that the run ends with. In a layer that its gates would
        empty, the best structure is switched on again. Under a fixed prior θ are probabilities, which stay what they
        are.
        """
        if not self.net.prior_type.decides:
            return
        theta = self.net.theta.detach()
        off = {name: part <= 0.5 for name, part in self.net.by_gate(theta).items()}
        try:
            shrink(self.net.net, off, example_input=self.net.example_input)
        except GateError:
            self._spare_last(off)
        theta.copy_(theta > 0.5)

    def _spare_last(self, off: dict[str, Tensor]) -> None:
        """Take the best structure out of ``off`` wherever a whole gate that is no branch's is off."""
        for name, mask in off.items():
            if bool(mask.all()) and not self.net.is_branch(name):
                self._spare(name, mask)

    def _spare(self, name: str, mask: Tensor) -> None:
        """Keep the last structure of a layer that cannot be left empty, whatever its by-pass."""
        net_cost = self.net.by_gate(self.updates.net_cost)[name]
        best = int(net_cost.argmin())
        mask[best] = False
        with torch.no_grad():
            self.net.by_gate(self.net.theta)[name][best] = 1.0
        inside = self._is_in_branch(name)
        why = "only the gate of the Residual around it can remove all of it" if inside else "the layer has no by-pass"
        hint = "" if inside else ", or the layer needs a Residual around it"
        warnings.warn(
            f"every structure of {name!r} was due for removal; the last one "
            f"(index {int(self.run.origin[name][best])}) is kept, because {why}. "
            f"{self._blame} for this network or so short a run{hint}",
            stacklevel=3,
        )

    def _is_in_branch(self, name: str) -> bool:
        """Whether a gate is within the body of a residual block, which has a by-pass and a gate of its own."""
        gate = self.net.gates()[self.net.gate_names.index(name)]
        blocks = (block for block in self.net.modules() if isinstance(block, Residual))
        return any(gate is inner for block in blocks for inner in block.body.modules())
