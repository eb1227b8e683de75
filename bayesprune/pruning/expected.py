"""What a gated network is expected to cost when each gate is on with its own probability, and prices made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.errors import ConfigError
from bayesprune.graph import Analysis, gates_of, trace
from bayesprune.graph import operations as ops
from bayesprune.layers import Gate
from bayesprune.types import Cost

LAYERS = (*ops.LINEARS, *ops.CONVOLUTIONS)


class ExpectedCost:
    """E[parameters] and E[multiply-adds] of a gated network under independent ξ_s ~ Bern(θ_s).

    (Guenter & Sideris 2024b, section 3.) An entry of a layer's output counts if its gates are on and anything that is
    on reads it; a layer then costs its number of inputs times its number of outputs. With independent gates this is
    multilinear in θ, so pricing by its derivative keeps the properties of a constant price: minima at θ ∈ {0, 1}.

    It is exact for chains whose layers cannot die whole. It approximates where they can (whether anything reads a
    layer is taken for its likeliest reader), and in sums, whose terms are taken for independent.

    Args:
        net: Gated network.
        example: Inputs, shape ``(B, ...)``; the first example tells the size of maps.

    Raises:
        TraceError: if the forward pass cannot be followed.
    """

    def __init__(self, net: nn.Module, example: Tensor):
        self.traced = trace(net)
        self.analysis = Analysis(self.traced, {})
        self.names = {gate: name for name, gate in gates_of(net).items()}
        self.positions = _positions(net, example[:1])
        gates = {id(gate.theta) for gate in self.names}
        counted = [module for node in self.analysis.steps if (module := self._counted(node)) is not None]
        theirs = {id(p) for module in counted for p in (module.weight, module.bias)} | gates
        self.others = float(sum(p.numel() for p in net.parameters() if id(p) not in theirs))

    def __call__(self, theta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Expected parameters and multiply-adds, differentiable in θ.

        Args:
            theta: By gate name, the inclusion probabilities.
        """
        present = self._present(theta)
        needed = self._needed(theta)
        params, macs = torch.tensor(self.others), torch.zeros(())
        seen: set[nn.Module] = set()
        for node, step in self.analysis.steps.items():
            module = self._counted(node)
            if module is None:
                continue
            share = torch.ones(()) if step.out is None else (present[node] * needed[node]).mean()
            outputs = share * len(module.weight)
            weights = torch.ones(())
            if isinstance(module, LAYERS):
                weights = self._inputs(node, module, present) * module.weight[0, 0].numel()  # type: ignore[index]
                macs = macs + outputs * weights * self.positions[str(node.target)]
            if module not in seen:
                params = params + outputs * (weights + (module.bias is not None))
            seen.add(module)
        return params, macs

    def _counted(self, node: fx.Node) -> Any:
        """The layer or normalisation whose entries a node computes, if it is one."""
        module = self.traced.module(node)
        return module if isinstance(module, (*LAYERS, *ops.BATCH_NORMS)) and module.weight is not None else None

    def _inputs(self, node: fx.Node, layer: nn.Module, present: Mapping[fx.Node, Tensor]) -> Tensor:
        """Expected number of inputs that one output of a layer reads."""
        size = layer.weight.shape[1]  # type: ignore[union-attr, index]
        source = node.args[0]
        if not isinstance(source, fx.Node) or source not in present or getattr(layer, "groups", 1) != 1:
            return torch.tensor(float(size))
        return present[source].mean() * size

    def _theta(self, node: fx.Node, theta: Mapping[str, Tensor]) -> Tensor | None:
        """θ of the gate that a node is or holds."""
        module = self.traced.module(node)
        gate = module if isinstance(module, Gate) else getattr(module, "gate", None)
        return theta[self.names[gate]] if isinstance(gate, Gate) else None

    def _present(self, theta: Mapping[str, Tensor]) -> dict[fx.Node, Tensor]:
        """Probability that each entry of each tensor is not silenced by the gates before it."""
        present: dict[fx.Node, Tensor] = {}
        for node, step in self.analysis.steps.items():
            if step.out is None:
                continue
            parts = []
            for flow in step.flows:
                part = torch.zeros(len(step.out)).index_put((flow.dst,), present[flow.node][flow.src])
                parts.append(part)
            if not parts:
                here = torch.ones(len(step.out))
            elif node.target in ops.PRODUCTS:
                here = torch.stack(parts).prod(0)
            else:
                here = 1 - torch.stack([1 - part for part in parts]).prod(0)
            gate = self._theta(node, theta)
            present[node] = here if gate is None else here * gate
        return present

    def _needed(self, theta: Mapping[str, Tensor]) -> dict[fx.Node, Tensor]:
        """Probability that anything reads each entry of each tensor, given the gates behind it."""
        unneeded = {node: torch.ones(len(f)) for node, f in self.analysis.known.items() if f is not None}
        apart: set[fx.Node] = set()  # tensors whose entries are not all needed together, but each by its own gate
        for node in reversed(list(self.analysis.steps)):
            step = self.analysis.steps[node]
            for source in step.pins:
                if source in unneeded:
                    unneeded[source] = torch.zeros_like(unneeded[source])
            if step.out is None:
                continue
            need = 1 - unneeded[node]
            gate = self._theta(node, theta)
            through = need if gate is None or not isinstance(self.traced.module(node), Gate) else need * gate
            for flow in step.flows:
                if node in apart or (gate is not None and through is not need and len(gate) > 1):
                    apart.add(flow.node)
                factor = torch.ones_like(unneeded[flow.node]).scatter_reduce(0, flow.src, 1 - through[flow.dst], "prod")
                unneeded[flow.node] = unneeded[flow.node] * factor
            anything = 1 - (1 - need).prod() if node in apart else need.amax()
            for read in step.reads:
                unneeded[read.node] = unneeded[read.node] * (1 - anything)
        return {node: 1 - value for node, value in unneeded.items()}


@dataclass(frozen=True)
class CostPrice:
    """Price structures at what they are expected to save: ρ_s = ∂/∂θ_s of 2ν √G.

    G = (E[params]/params_0)^w · (E[MACs]/MACs_0)^(1−w) is the expected cost relative to a reference. The cost of a
    network grows with the square of its width, so the derivative of √G, unlike that of G or of log G, does not change
    when all widths change alike: prices neither fade nor run away while the network shrinks, and a network that starts
    twice as wide meets the same ones.

    Attributes:
        nu: ν, nats per example: what the whole reference cost is worth, times one half.
        params: w, the weight of parameters against multiply-adds.
        reference: What cost counts as 1; ``None`` for that of the network at the start.
    """

    nu: float
    params: float = 0.5
    reference: Cost | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.nu) and self.nu > 0 and 0 <= self.params <= 1):
            raise ConfigError(
                f"CostPrice: expected nu > 0 and params in [0, 1], got nu={self.nu}, params={self.params}"
            )

    def relative_to(self, cost: Cost) -> CostPrice:
        """The same price with this reference, if it has none yet."""
        return self if self.reference is not None else replace(self, reference=cost)

    def __call__(self, expected: ExpectedCost, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ρ by gate name, nats per example, at the present θ.

        Args:
            expected: Expected cost of the present network.
            theta: By gate name, the inclusion probabilities.

        Raises:
            ConfigError: if the price has no reference.
        """
        if self.reference is None or self.reference.macs is None:
            raise ConfigError("CostPrice: needs a reference with parameters and multiply-adds; see relative_to")
        leaves = {name: value.detach().float().cpu().requires_grad_(True) for name, value in theta.items()}
        with torch.enable_grad():
            params, macs = expected(leaves)
            log_cost = self.params * (params / self.reference.params).log()
            log_cost = log_cost + (1 - self.params) * (macs / self.reference.macs).log()
            penalty = 2 * self.nu * (log_cost / 2).exp()
        gradients = torch.autograd.grad(penalty, list(leaves.values()), allow_unused=True)
        least = 1e-6 * self.nu / max(1, sum(leaf.numel() for leaf in leaves.values()))
        return {
            name: (torch.zeros_like(leaf) if gradient is None else gradient).clamp(min=least)
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }


def _positions(net: nn.Module, example: Tensor) -> dict[str, int]:
    """By layer, at how many positions of a map it is applied to one example."""
    positions: dict[str, int] = {}
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, LAYERS):

            def record(layer: nn.Module, _: object, output: Tensor, name: str = name) -> None:
                positions[name] = math.prod(output.shape[1:]) // len(layer.weight)  # type: ignore[arg-type]

            hooks.append(module.register_forward_hook(record))
    was_training = net.training
    thetas = [(gate, gate.theta.detach().clone()) for gate in gates_of(net).values()]
    try:
        net.eval()
        with torch.no_grad():
            for gate, _ in thetas:
                gate.theta.fill_(1.0)  # so that every branch is computed
            net(example)
    finally:
        with torch.no_grad():
            for gate, theta in thetas:
                gate.theta.copy_(theta)
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    return positions
