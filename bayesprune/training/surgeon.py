"""Make a network that is being trained smaller, and everything that follows it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bayesprune.errors import GateError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual, holders_of, plain_parameters
from bayesprune.methods.svi.gates import GateUpdates
from bayesprune.ops import operation_of
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import RemovalMonitor, kept_gates, shrink
from bayesprune.types import IndexMap, Removal


class Surgeon:
    """Removes structures from a `BayesianNet` together with their optimiser state, and keeps the books.

    Args:
        net: The network.
        optimizer: The optimiser of its weights.
        updates: The steps of θ.
        patience: Consecutive checks before a removal.

    Attributes:
        origin: By gate name, the indices that the surviving gates had at the start.
        removals: Every removal so far.
    """

    def __init__(self, net: BayesianNet, optimizer: torch.optim.Optimizer, updates: GateUpdates, patience: int = 2):
        self.net, self.optimizer, self.updates = net, optimizer, updates
        self.monitor = RemovalMonitor(net.num_gates, patience, net.theta.device)
        self.origin = {name: torch.arange(len(theta)) for name, theta in net.gate_probs().items()}
        self.removals: list[Removal] = []

    def check(self, step: int) -> bool:
        """Look at every gate once and remove what may go.

        Args:
            step: The step that is done, for the log.

        Returns:
            Whether the network became smaller.
        """
        return self._cut(step, self.monitor.check(self.net.theta.detach(), self.updates.gain))

    def clear(self, step: int) -> bool:
        """When θ has come to rest: remove every structure whose θ is 0, whatever the evidence.

        Args:
            step: The step that is done, for the log.

        Returns:
            Whether the network became smaller.
        """
        return self._cut(step, self.net.theta.detach() == 0)

    def _cut(self, step: int, ready: Tensor) -> bool:
        """Remove the structures in ``ready``, shape ``(S,)``, bool, as far as they can go now."""
        if not bool(ready.any()):
            return False
        off = {name: mask for name, mask in self.net.by_gate(ready).items() if bool(mask.any())}
        try:
            smaller, index = shrink(self.net.net, off, example_input=self.net.example_input)
        except GateError:  # a layer would be left empty
            self._spare_last(off)
            try:
                smaller, index = shrink(self.net.net, off, example_input=self.net.example_input)
            except GateError as error:
                warnings.warn(f"removal put off: {error}", stacklevel=2)
                self.monitor.reset()
                return False
        if sum(len(kept) for kept in kept_gates(self.net.net, index).values()) == self.net.num_gates:
            self.monitor.reset()  # what is off cannot go yet: others still write where it wrote
            return False
        self._log(step, smaller, index)
        self.follow(smaller, index)
        return True

    def guard(self) -> None:
        """When θ has come to rest: switch the best structure on again in every layer that its gates would empty.

        Not under a fixed prior: its θ are probabilities, which stay what they are.
        """
        if self.net.fixed_prior:
            return
        off = {name: part <= 0.5 for name, part in self.net.by_gate(self.net.theta.detach()).items()}
        try:
            shrink(self.net.net, off, example_input=self.net.example_input)
        except GateError:
            self._spare_last(off)

    def _spare_last(self, off: dict[str, Tensor]) -> None:
        """Take the best structure out of ``off`` wherever a whole gate that is no branch's is off."""
        for name, mask in off.items():
            if bool(mask.all()) and not self.net.is_branch(name):
                self._spare(name, mask)

    def _spare(self, name: str, mask: Tensor) -> None:
        """Keep the last structure of a layer without a by-pass."""
        gain = self.net.by_gate(self.updates.gain)[name]
        best = int(gain.argmin())
        mask[best] = False
        with torch.no_grad():
            self.net.by_gate(self.net.theta)[name][best] = 1.0
        warnings.warn(
            f"every structure of {name!r} was due for removal; the last one "
            f"(index {int(self.origin[name][best])}) is kept, because the layer has no by-pass. "
            "The price (log_gamma, or nu of CostPrice) is too high for this network or so short a run, or the layer "
            "needs a Residual around it",
            stacklevel=3,
        )

    def cut_to(self, survivors: dict[str, Tensor]) -> tuple[nn.Module, IndexMap] | None:
        """The network with the structures of these starting indices alone, for `follow`; ``None`` if it has no others.

        This is how a checkpoint is taken up: nothing is logged, and the network stays as it is.
        """
        off, none = {}, torch.zeros(0, dtype=torch.long)
        for name, origin in self.origin.items():
            alive = torch.isin(origin, survivors.get(name, none))
            if not bool(alive.all()):
                off[name] = ~alive
        return shrink(self.net.net, off, example_input=self.net.example_input) if off else None

    def _log(self, step: int, smaller: nn.Module, index: IndexMap) -> None:
        kept = kept_gates(self.net.net, index)
        thetas, gains = self.net.by_gate(self.net.theta.detach().cpu()), self.net.by_gate(self.updates.gain.cpu())
        holders = holders_of(self.net.net)
        for name, gate in zip(self.net.gate_names, self.net.gates(), strict=True):
            gone = torch.ones(len(thetas[name]), dtype=torch.bool)
            if name in kept:
                gone[kept[name]] = False
            norms = _structure_norms(holders[gate].values(), len(gone))
            for s in gone.nonzero()[:, 0].tolist():
                evidence = float(thetas[name][s]), float(gains[name][s]), float(norms[s])
                self.removals.append(Removal(step, name, int(self.origin[name][s]), *evidence))

    def follow(self, smaller: nn.Module, index: IndexMap) -> None:
        """Let prices, estimates, monitor and optimiser go on with the smaller network."""
        net, kept = self.net, kept_gates(self.net.net, index)
        old = net.trained()
        chosen = net.replace(smaller, kept)
        self.updates.keep(chosen)
        self.monitor.keep(chosen)
        new = net.trained()
        whole = {name: (None,) * p.dim() for name, p in new.items() if name not in index.kept}  # the likelihood's own
        remap_optimizer(self.optimizer, old, new, IndexMap({**index.kept, **whole}, index.folded))
        self.origin = {name: self.origin[name][kept[name]] for name in self.origin if name in kept}


def _structure_norms(holders: Iterable[nn.Module], size: int) -> Tensor:
    """‖M_s‖ of each structure of a gate, shape ``(size,)``: of rows of the writing layers, and of branches."""
    norms = [_structure_norm(holder, size) for holder in holders]
    return torch.stack(norms).norm(dim=0) if len(norms) > 1 else norms[0] if norms else torch.zeros(size)


def _structure_norm(module: nn.Module, size: int) -> Tensor:
    if isinstance(module, Residual):
        squares = [p.detach().square().sum() for p in plain_parameters(module.body).values()]
        return torch.stack(squares).sum().sqrt().expand(size).cpu()
    weight: Tensor = module.weight.detach()  # type: ignore[operator, assignment, union-attr]
    parts = operation_of(module).parts
    place = 0 if parts is None else parts(module).tensors["weight"].index("out")
    if weight.shape[place] != size:
        return weight.norm().expand(size).cpu()
    return weight.transpose(0, place).flatten(1).norm(dim=1).cpu()
