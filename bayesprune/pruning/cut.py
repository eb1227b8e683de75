"""Cut entries out of the modules of a network, and note which were kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.graph import Analysis
from bayesprune.layers import Gate, NormalLayer
from bayesprune.ops.calls import is_depthwise
from bayesprune.ops.features import Features
from bayesprune.ops.operations import BATCH_NORMS, CONVOLUTIONS, LINEARS, TRANSPOSED


class Cutter:
    """Makes the modules of analysed networks smaller, in place.

    Attributes:
        kept: By name of a tensor that became smaller, the indices kept along every dimension; ``None`` for all.
        folded: Names of biases that took up a constant.
    """

    analysis: Analysis

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Tensor | None, ...]] = {}
        self.folded: set[str] = set()

    def cut(self, analysis: Analysis) -> None:
        """Cut every module of the analysed network that the analysis lets become smaller."""
        self.analysis = analysis
        traced = self.analysis.traced
        for node in traced.graph.nodes:
            module, name = traced.module(node), str(node.target)
            step = self.analysis.steps[node]
            if node.op == "get_attr" and step.out is not None:
                self._attribute(node, step.out)
            if module is None or name in traced.fixed or (step.out is None and not step.reads):
                continue
            if isinstance(module, Gate):
                self._gate(node, module, name)
            elif type(module) in (*LINEARS, *CONVOLUTIONS, *TRANSPOSED):
                self._layer(node, module, name)
            elif type(module) in BATCH_NORMS:
                self._batch_norm(node, module, name)
            elif type(module) is nn.PReLU and module.num_parameters > 1:
                self._tensor(name, module, "weight", self.analysis.kept(node, module.num_parameters))
                module.num_parameters = module.weight.numel()

    @torch.no_grad()
    def _tensor(self, name: str, module: nn.Module, attribute: str, *masks: Tensor | None) -> None:
        """Keep what ``masks``, one for each leading dimension, select of a parameter or buffer."""
        old = getattr(module, attribute)
        if old is None or all(mask is None or bool(mask.all()) for mask in masks):
            return
        index = [None if mask is None or bool(mask.all()) else mask.nonzero()[:, 0].to(old.device) for mask in masks]
        index += [None] * (old.dim() - len(index))
        value = old.detach()
        for dim, chosen in enumerate(index):
            if chosen is not None:
                value = value.index_select(dim, chosen)
        if isinstance(old, nn.Parameter):
            setattr(module, attribute, nn.Parameter(value.clone(), requires_grad=old.requires_grad))
        else:
            setattr(module, attribute, value)
        full = f"{name}.{attribute}" if name else attribute
        before = self.kept.get(full, (None,) * old.dim())
        self.kept[full] = tuple(
            b if i is None else i if b is None else b[i] for b, i in zip(before, index, strict=True)
        )

    def _layer(self, node: fx.Node, layer: Any, name: str) -> None:
        linear = isinstance(layer, nn.Linear)
        inputs, outputs = (layer.in_features, layer.out_features) if linear else (layer.in_channels, layer.out_channels)
        stays = self.analysis.kept(node, outputs)
        normal = isinstance(layer, NormalLayer)
        if is_depthwise(layer):
            self._tensor(name, layer, "weight", stays)
            if normal:
                self._tensor(name, layer, "weight_log_scale", stays)
            layer.groups = layer.in_channels = layer.out_channels = len(layer.weight)
        else:
            read = self.analysis.kept(node.args[0], inputs) if self.analysis.steps[node].reads else None  # type: ignore[arg-type]
            if read is not None:
                self._fold(node, layer, name, inputs, read)
            transposed = isinstance(layer, TRANSPOSED)
            self._tensor(name, layer, "weight", *((read, stays) if transposed else (stays, read)))
            if normal:
                self._tensor(name, layer, "weight_log_scale", stays, read)
            sizes = layer.weight.shape[:2][::-1] if transposed else layer.weight.shape
            if linear:
                layer.out_features, layer.in_features = sizes[0], sizes[1]
            else:
                layer.out_channels, layer.in_channels = sizes[0], sizes[1]
        self._tensor(name, layer, "bias", stays)
        if normal:
            self._tensor(name, layer, "bias_log_scale", stays)
        gate = getattr(layer, "gate", None)
        if gate is not None and gate.size == outputs:
            self._own_gate(gate, f"{name}.gate", stays)

    @torch.no_grad()
    def _fold(self, node: fx.Node, layer: Any, name: str, inputs: int, read: Tensor) -> None:
        """Add what the constants among the lost inputs contribute to the bias and its variance, in float64."""
        constants = torch.where(read, 0.0, self.analysis.constants(node.args[0], inputs))  # type: ignore[arg-type]
        if layer.bias is None or not bool(constants.any()):
            return
        constants = constants.to(layer.weight.device)
        layer.bias.copy_(layer.bias.double() + _taps(layer.weight) @ constants)
        self.folded.add(f"{name}.bias" if name else "bias")
        if isinstance(layer, NormalLayer) and layer.bias_log_scale is not None:
            variance = (2 * layer.bias_log_scale.double()).exp()
            variance += _taps((2 * layer.weight_log_scale.double()).exp()) @ constants.square()
            layer.bias_log_scale.copy_(0.5 * variance.log())
            self.folded.add(f"{name}.bias_log_scale" if name else "bias_log_scale")

    def _batch_norm(self, node: fx.Node, norm: Any, name: str) -> None:
        mask = self.analysis.kept(node, norm.num_features)
        for attribute in ("weight", "bias", "running_mean", "running_var"):
            self._tensor(name, norm, attribute, mask)
        norm.num_features = int(mask.sum())

    def _attribute(self, node: fx.Node, features: Features) -> None:
        """A parameter or buffer that is used directly; once, wherever it is used."""
        owner, _, attribute = str(node.target).rpartition(".")
        module = self.analysis.traced.net.get_submodule(owner)
        place = getattr(module, attribute).dim() + features.axis
        if len(features) == getattr(module, attribute).shape[place]:
            self._tensor(owner, module, attribute, *[None] * place, self.analysis.kept(node, len(features)))

    def _own_gate(self, gate: Gate, name: str, mask: Tensor) -> None:
        self._tensor(name, gate, "theta", mask)
        gate.size = gate.in_size = len(gate.theta)

    def _gate(self, node: fx.Node, gate: Gate, name: str) -> None:
        """A gate that stands alone selects where its input keeps more entries than its output."""
        if not self.analysis.steps[node].selects:
            return
        out = self.analysis.kept(node, gate.size)
        source = self.analysis.kept(node.args[0], gate.in_size)  # type: ignore[arg-type]
        index = torch.arange(gate.in_size) if gate.index is None else gate.index.cpu()
        position = source.cumsum(0) - 1
        chosen = position[index[out]]
        self._tensor(name, gate, "theta", out)
        gate.size, gate.in_size = int(out.sum()), int(source.sum())
        gate.index = None if gate.size == gate.in_size else chosen.to(gate.theta.device)


def _taps(weight: Tensor) -> Tensor:
    """What each input adds to each output where it is constant, float64: kernels summed over their positions."""
    weight = weight.detach().double()
    return weight.flatten(2).sum(2) if weight.dim() > 2 else weight
