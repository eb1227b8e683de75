"""Make a network that is being trained smaller, and everything that follows it; and keep the books."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bayesprune.data.inputs import Inputs
from bayesprune.graph import Traced
from bayesprune.infer.plain import PlainNet
from bayesprune.layers import Gate, Residual, holders_of, plain_parameters
from bayesprune.methods.protocol import Model
from bayesprune.ops import operation_of
from bayesprune.ops.grouped import is_depthwise
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import kept_gates, shrink
from bayesprune.types import IndexMap, Removal


class Cuts:
    """Removes structures from a network together with what belongs to its weights.

    Args:
        net: The network.
        trained: Gives everything that is trained now, by name.
        example: An input, by which a plain network is followed; one with a posterior has its own, if any.

    Attributes:
        optimizer: The optimiser of that, whose state follows.
        followers: Called with every `IndexMap`, for what else is kept of each weight.
        origin: By gate name, the indices that the surviving gates had at the start.
        removals: Every removal so far.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, net: Model, trained: Callable[[], dict[str, nn.Parameter]], example: Inputs):
        self.net, self.trained = net, trained
        self.example = example if isinstance(net, PlainNet) else net.example_input
        self.followers: list[Callable[[IndexMap], None]] = []
        self.origin = {name: torch.arange(len(theta)) for name, theta in net.gate_probs().items()}
        self.removals: list[Removal] = []

    def remove(
        self, step: int, off: Mapping[str, Tensor], net_cost: Tensor | None = None, forced: Tensor | None = None
    ) -> Tensor | None:
        """Remove structures, as far as they can go now.

        Args:
            step: The step that is done, for the log.
            off: By gate name, which of its structures go, bool.
            net_cost: For the log, the evidence for each, shape ``(S,)``.
            forced: For the log, which go for the sake of a budget, bool, shape ``(S,)``; ``None`` for none.

        Returns:
            The entries of θ that are left; ``None`` if nothing can go, because others still write where it wrote.

        Raises:
            GateError: if a layer would be left empty.
        """
        smaller, index = shrink(self.net.net, off, example_input=self.example)
        if sum(len(kept) for kept in kept_gates(self.net.net, index).values()) == self.net.num_gates:
            return None
        gates = self.net.num_gates
        net_cost = torch.full((gates,), torch.nan) if net_cost is None else net_cost.cpu()
        self._log(step, index, net_cost, torch.zeros(gates, dtype=torch.bool) if forced is None else forced)
        return self.follow(smaller, index)

    def cut_to(self, survivors: Mapping[str, Tensor]) -> tuple[nn.Module, IndexMap] | None:
        """The network with the structures of these starting indices alone, for `follow`; ``None`` if it has no others.

        This is how a checkpoint is taken up: nothing is logged, and the network stays as it is.
        """
        off, none = {}, torch.zeros(0, dtype=torch.long)
        for name, origin in self.origin.items():
            alive = torch.isin(origin, survivors.get(name, none))
            if not bool(alive.all()):
                off[name] = ~alive
        return shrink(self.net.net, off, example_input=self.example) if off else None

    def _log(self, step: int, index: IndexMap, net_cost: Tensor, forced: Tensor) -> None:
        kept = kept_gates(self.net.net, index)
        thetas, net_costs = self.net.by_gate(self.net.theta.detach().cpu()), self.net.by_gate(net_cost)
        asked = self.net.by_gate(forced)
        holders = holders_of(self.net.net)
        for name, gate in zip(self.net.gate_names, self.net.gates(), strict=True):
            gone = torch.ones(len(thetas[name]), dtype=torch.bool)
            if name in kept:
                gone[kept[name]] = False
            layers = list(holders[gate].values()) or _writers(self.net.traced, gate)
            norms = _structure_norms(layers, len(gone))
            for s in gone.nonzero()[:, 0].tolist():
                evidence = float(thetas[name][s]), float(net_costs[name][s]), float(norms[s])
                self.removals.append(Removal(step, name, int(self.origin[name][s]), *evidence, bool(asked[name][s])))

    def follow(self, smaller: nn.Module, index: IndexMap) -> Tensor:
        """Let the network become the smaller one, and optimiser and followers go on with it.

        Args:
            smaller: The network that is left.
            index: Which entries of each tensor it kept.

        Returns:
            The entries of θ that are left.
        """
        kept = kept_gates(self.net.net, index)
        old = self.trained()
        chosen = self.net.replace(smaller, kept)
        new = self.trained()
        whole = {name: (None,) * p.dim() for name, p in new.items() if name not in index.kept}  # not the network's
        index = IndexMap({**index.kept, **whole}, index.folded)
        remap_optimizer(self.optimizer, old, new, index)
        for follow in self.followers:
            follow(index)
        self.origin = {name: self.origin[name][kept[name]] for name in self.origin if name in kept}
        return chosen


def _structure_norms(holders: Iterable[nn.Module], size: int) -> Tensor:
    """‖M_s‖ of each structure of a gate, shape ``(size,)``: of rows of the writing layers, and of branches."""
    norms = [_structure_norm(holder, size) for holder in holders]
    return torch.stack(norms).norm(dim=0) if len(norms) > 1 else norms[0] if norms else torch.zeros(size)


def _writers(traced: Traced, gate: Gate) -> list[nn.Module]:
    """The layer that writes what a gate of its own multiplies, if what lies between reads one tensor at a time.

    Args:
        traced: The network.
        gate: The gate.
    """
    node = traced.uses[gate][0]
    while len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
        module = traced.module(node)
        if isinstance(module, (nn.Linear, _ConvNd)) and not is_depthwise(module):
            return [module] if module.weight.shape[units_of(module)] == gate.size else []
    return []


def _structure_norm(module: nn.Module, size: int) -> Tensor:
    if isinstance(module, Residual):
        squares = [p.detach().square().sum() for p in plain_parameters(module.body).values()]
        return torch.stack(squares).sum().sqrt().expand(size).cpu()
    weight: Tensor = module.weight.detach()  # type: ignore[operator, assignment, union-attr]
    place = units_of(module)
    if weight.shape[place] != size:
        return weight.norm().expand(size).cpu()
    return weight.transpose(0, place).flatten(1).norm(dim=1).cpu()


def units_of(layer: nn.Module) -> int:
    """The dimension of a layer's weight along which the units lie that it writes."""
    parts = operation_of(layer).parts
    return 0 if parts is None else parts(layer).tensors["weight"].index("out")
