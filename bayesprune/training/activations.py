"""What goes through a network, looked at by hooks where a method may act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.layers import Gate, Residual
from bayesprune.layers.gated import GatedLayer
from bayesprune.methods.protocol import Site
from bayesprune.methods.protocol.signals import input_of, is_linear_map, vectors

Rule = tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]
OF_GATES: dict[str, Rule] = {
    "mean_abs": (lambda a, g: a.abs().mean((2, 3)), lambda calls: calls.mean(0)),
    "rank": (lambda a, g: torch.linalg.matrix_rank(a.float()).to(a.dtype), lambda calls: calls.mean(0)),
    "act_grad": (lambda a, g: (a * g).sum((2, 3)), lambda calls: calls.sum(0)),
    "pooled": (lambda a, g: a.amax((2, 3)), lambda calls: calls.amax(0)),
}
"""By statistic, what it is of what a gate multiplies and its gradient, each of shape ``(B, size, rows, columns)``:
shape ``(B, size)``; and what it is of several such, one for each place where the gate multiplies."""


class Activations:
    """Hooks, and what they have seen.

    Args:
        sites: Where to look.
        names: The statistics that are asked for.

    Attributes:
        examples: How many examples went through.
        sums: By statistic and gate, sums over examples, shape ``(size,)``, float64 on the device.
        pooled: By gate, rows of ``pooled``, one tensor a batch.
        zeros: By weight, how many entries of its layer's inputs were 0.
        entries: By weight, how many entries there were.
        inputs: By weight, inputs of its layer, one tensor a batch.
        outputs: Its outputs.
        vectors: By weight, what a row of it is multiplied by at one position of every example, one tensor a batch.
    """

    def __init__(self, sites: Sequence[Site], names: Sequence[str]):
        self.rules = {name: OF_GATES[name] for name in names if name in OF_GATES}
        self.examples = 0
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.pooled: dict[str, list[Tensor]] = {}
        self.zeros: dict[str, Tensor] = {}
        self.entries: dict[str, int] = {}
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self.vectors: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, int] = {}
        self._calls: dict[str, list[tuple[Tensor, int | None]]] = {}
        self._handles: list[Any] = []
        self._runs: list[tuple[Residual, Any]] = []
        for site in sites:
            if site.kind == "output" and self.rules:
                self._watch_gate(site)
            if site.kind == "weight" and "zeros_in" in names:
                self._handles.append(site.layer.register_forward_pre_hook(self._zeros(site.name), with_kwargs=True))
            if site.kind == "weight" and "in_out" in names:
                self._handles.append(site.layer.register_forward_hook(self._in_out(site.name), with_kwargs=True))
            if site.kind == "weight" and "vectors" in names and is_linear_map(site.layer):
                self._handles.append(site.layer.register_forward_pre_hook(self._vectors(site.name), with_kwargs=True))

    def _watch_gate(self, site: Site) -> None:
        """Look at what a gate multiplies: outputs of the layer that holds it, the branch of a residual block."""
        layer = site.layer
        gate: Gate = layer if isinstance(layer, Gate) else layer.gate  # type: ignore[assignment]
        dim = layer.gate_dim if isinstance(layer, GatedLayer) else gate.dim
        place = layer
        if isinstance(layer, Residual) and type(layer).forward is Residual.forward:
            place = layer.body
            self._runs.append((layer, layer.run))
            layer.run = None  # a compiled form of it calls no hooks

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not output.requires_grad:
                output = output.detach().requires_grad_()  # nothing that is trained lies before it
            self._calls[site.name].append((output, None if gate.size == 1 else dim))
            return output.clone()  # what follows may change it in place

        self._sizes[site.name] = gate.size
        self._calls[site.name] = []
        self._handles.append(place.register_forward_hook(hook))

    def _zeros(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = input_of(module, args, kwargs)
            zeros = (given == 0).sum().double()
            self.zeros[name] = self.zeros[name] + zeros if name in self.zeros else zeros
            self.entries[name] = self.entries.get(name, 0) + given.numel()

        return hook

    def _in_out(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            self.inputs.setdefault(name, []).append(input_of(module, args, kwargs).detach().to("cpu", copy=True))
            self.outputs.setdefault(name, []).append(output.detach().to("cpu", copy=True))

        return hook

    def _vectors(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            drawn = self.vectors.setdefault(name, [])
            drawn.append(vectors(module, input_of(module, args, kwargs).detach(), seed=len(drawn)).cpu())

        return hook

    def end_batch(self, count: int, loss: Tensor) -> None:
        """Take the statistics of the batch that just went through.

        Args:
            count: Its number of examples.
            loss: The sum of their losses, for gradients.
        """
        self.examples += count
        calls = [(name, *call) for name, all_calls in self._calls.items() for call in all_calls]
        values = [value for _, value, _ in calls]
        gradients: Sequence[Tensor | None] = [None] * len(values)
        if "act_grad" in self.rules and values and loss.requires_grad:
            gradients = torch.autograd.grad(loss, values, allow_unused=True)
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._calls}
        for (name, value, dim), gradient in zip(calls, gradients, strict=True):
            gradient = torch.zeros_like(value) if gradient is None else gradient
            found[name].append((_maps(value.detach(), dim), _maps(gradient, dim)))
        for name, maps in found.items():
            self._calls[name] = []
            for statistic, (rule, join) in self.rules.items():
                empty = loss.new_zeros(count, self._sizes[name], dtype=torch.float64)  # a branch that is off
                rows = join(torch.stack([rule(a, g).double() for a, g in maps])) if maps else empty.detach()
                self._add(statistic, name, rows)

    def _add(self, statistic: str, name: str, rows: Tensor) -> None:
        """Take the rows of a batch, shape ``(B, size)``."""
        if statistic == "pooled":
            self.pooled.setdefault(name, []).append(rows.float().cpu())
            return
        parts = {statistic: rows.sum(0)}
        if statistic == "act_grad":
            parts["act_grad_size"] = rows.abs().sum(0)
        for key, part in parts.items():
            self.sums[key, name] = self.sums[key, name] + part if (key, name) in self.sums else part

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()
        for block, run in self._runs:
            block.run = run


def _maps(value: Tensor, dim: int | None) -> Tensor:
    """What a gate multiplies as one matrix a structure and example, shape ``(B, size, rows, columns)``.

    Args:
        value: Shape ``(B, ...)``.
        dim: The dimension along which structures lie; ``None`` for one, the whole.
    """
    value = value[:, None] if dim is None else value.movedim(dim, 1)
    columns = value.shape[-1] if value.dim() > 2 else 1
    return value.reshape(len(value), value.shape[1], -1, columns)
