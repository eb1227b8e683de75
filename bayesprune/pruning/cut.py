"""Cut entries out of the modules of a network, and note which were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.errors import TraceError
from bayesprune.graph import Analysis
from bayesprune.graph.origins import rewrite
from bayesprune.layers import Gate
from bayesprune.ops import Features, Parts, operation_of
from bayesprune.ops.registry import Role


class Cutter:
    """Makes the modules of analysed networks smaller, in place, by what the records of their operations say.

    What several hold, a gate of several layers, say, is cut once, and noted under the first of its names.

    Attributes:
        kept: By name of a tensor that became smaller, the indices kept along every dimension; ``None`` for all.
        folded: Names of biases that took up a constant.
    """

    analysis: Analysis

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Tensor | None, ...]] = {}
        self.folded: set[str] = set()
        self._names: dict[nn.Module, str] = {}
        self._done: set[tuple[nn.Module, str]] = set()
        self._shared: dict[Gate, Tensor] = {}

    def cut(self, analysis: Analysis) -> None:
        """Cut every module of the analysed network that the analysis lets become smaller."""
        self.analysis = analysis
        traced = self.analysis.traced
        self._names = {module: name for name, module in traced.net.named_modules()}
        self._done = set()
        self._shared = analysis.shared
        met: set[nn.Module] = set()  # what one call of a layer lets go, all do
        for node in traced.graph.nodes:
            module, step = traced.module(node), self.analysis.steps[node]
            if node.op == "get_attr" and step.out is not None:
                self._attribute(node, step.out)
            if module is None or str(node.target) in traced.fixed or (step.out is None and not step.reads):
                continue
            parts = None if module in met else operation_of(module).parts
            met.add(module)
            if parts is not None and (not isinstance(module, Gate) or (step.selects and module not in self._shared)):
                self._module(node, module, parts(module))
        for gate, ids in self._shared.items():
            use = traced.uses[gate][0]
            if self.analysis.steps[use].selects:
                self._module(use, gate, operation_of(gate).parts(gate))  # type: ignore[misc]
            else:
                self._own_gate(gate, analysis.stay(ids))
        self._numbers()

    def _numbers(self) -> None:
        """Write the sizes that are left into the graphs where sizes are written out."""
        new: dict[fx.Node, Sequence[int | fx.Node]] = {}
        for step in self.analysis.steps.values():
            for node, numbers in step.refit(self.analysis.stay).items() if step.refit is not None else ():
                if new.setdefault(node, numbers) != numbers:
                    raise TraceError(f"{node.name} cannot be written with the sizes that are left")
        rewrite(self.analysis.traced.net, self.analysis.traced.written, new)

    def _module(self, node: fx.Node, module: Any, parts: Parts) -> None:
        """Cut the parts of a module and its gate.

        Args:
            node: Its call.
            module: The module.
            parts: What of it runs along its inputs and outputs.
        """
        operation, step = operation_of(module), self.analysis.steps[node]
        sizes = {role: getattr(module, attribute) for attribute, role in parts.sizes.items()}
        stays: dict[Role, Tensor] = {}
        if "out" in sizes:
            stays["out"] = self.analysis.kept(node, sizes["out"])
        if "in" in sizes and (step.reads or step.flows or step.selects):
            stays["in"] = self.analysis.kept(node.all_input_nodes[0], sizes["in"])
            if operation.fold is not None:
                constants = self.analysis.constants(node.all_input_nodes[0], sizes["in"])
                folded = operation.fold(module, torch.where(stays["in"], 0.0, constants))
                self.folded |= {self._name(module, attribute) for attribute in folded}
        if operation.cut is not None:
            every = torch.ones(sizes.get("in", 0), dtype=torch.bool)
            stays.update(operation.cut(module, stays.get("in", every), stays["out"]))
        for attribute, roles in parts.tensors.items():
            self._tensor(module, attribute, *[stays.get(role) for role in roles])
        for attribute, role in parts.sizes.items():
            if role in stays:
                setattr(module, attribute, int(stays[role].sum()))
        gate = getattr(module, "gate", None)
        if gate is not None and gate not in self._shared and gate.size == sizes.get("out"):
            self._own_gate(gate, stays["out"])

    def _own_gate(self, gate: Gate, stays: Tensor) -> None:
        """Cut a gate that multiplies all that what it gates has left.

        Args:
            gate: The gate.
            stays: Which of its structures stay, bool.
        """
        self._tensor(gate, "theta", stays)
        gate.size = gate.in_size = len(gate.theta)

    @torch.no_grad()
    def _tensor(self, module: nn.Module, attribute: str, *masks: Tensor | None) -> None:
        """Keep what ``masks`` select of a parameter or buffer.

        Args:
            module: Its owner.
            attribute: What it is called there.
            masks: Which entries stay, one mask for each leading dimension, bool; ``None`` for all. One is repeated
                where a dimension holds what it is for several times.
        """
        old = getattr(module, attribute)
        if old is None:
            return
        masks = tuple(
            None if mask is None else mask.repeat(size // len(mask))
            for mask, size in zip(masks, old.shape, strict=False)
        )
        whole = all(mask is None or bool(mask.all()) for mask in masks)
        if whole or (module, attribute) in self._done:
            return
        self._done.add((module, attribute))
        index = [None if mask is None or bool(mask.all()) else mask.nonzero()[:, 0].to(old.device) for mask in masks]
        index += [None] * (old.dim() - len(index))
        value = old.detach()
        for dim, chosen in enumerate(index):
            if chosen is not None:
                value = value.index_select(dim, chosen)
        if isinstance(old, nn.Parameter):
            setattr(module, attribute, nn.Parameter(value, requires_grad=old.requires_grad))
        else:
            setattr(module, attribute, value)
        full = self._name(module, attribute)
        before = self.kept.get(full, (None,) * old.dim())
        self.kept[full] = tuple(
            b if i is None else i if b is None else b[i] for b, i in zip(before, index, strict=True)
        )

    def _name(self, module: nn.Module, attribute: str) -> str:
        name = self._names[module]
        return f"{name}.{attribute}" if name else attribute

    def _attribute(self, node: fx.Node, features: Features) -> None:
        """A parameter or buffer that is used directly; once, wherever it is used.

        Args:
            node: What reads it.
            features: Its entries.
        """
        owner, _, attribute = str(node.target).rpartition(".")
        module = self.analysis.traced.net.get_submodule(owner)
        place = getattr(module, attribute).dim() + features.axis
        if len(features) == getattr(module, attribute).shape[place]:
            self._tensor(module, attribute, *[None] * place, self.analysis.kept(node, len(features)))
