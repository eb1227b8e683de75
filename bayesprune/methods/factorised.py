"""Layers become thin ones in a row, whose weights end on a grid of few values (Cherniuk et al. 2023)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.solvers.factors import product, quantised, without_grid

FACTORED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that have factors; classes derived of them, which may have gates, are left."""


class QuantisedFactors(Method):
    """Replaces layers by factors before the first step, trains these, puts their weights on grids, and tunes the rest.

    A linear layer of weight W ≈ A Bᵀ becomes two linear layers, a convolution one of R channels and a 1x1 one; with
    ``form="cp"`` a convolution becomes a 1x1, a depthwise and a 1x1 one. The grids' factors are those nearest to the
    product of the trained ones. From then on they rest; biases and normalisations train on. Give it a trained network
    for the paper's use: the first factors are the nearest to the weights that the network has.

    Args:
        share: Which share of a layer's weights its factors have at most, as long as one column is no more than that.
        bits: Each tensor of factors has 2^bits values at most.
        form: ``"matrix"`` or ``"cp"``.
        until: After which share of the run the weights are put on grids.

    Raises:
        ConfigError: for shares outside (0, 1), fewer than 2 or more than 16 bits, another form, and before training,
            for a network without a plain layer that one column of factors makes smaller.

    Example:
        >>> QuantisedFactors(bits=4).options()
        {'share': 0.25, 'bits': 4, 'form': 'matrix', 'until': 0.5}

    Sources:
        Cherniuk, Abukhovich, Phan, Oseledets, Cichocki & Gusak 2023, "Quantization Aware Factorization for Deep Neural
        Network Compression". There a trained network is factorised once, and normalisations are estimated anew; that
        factors train before, and what trains after, is ours. Its Tucker form is not here.
    """

    name: ClassVar[str] = "factorised"

    @checked_arguments
    def __init__(
        self,
        share: float = 0.25,
        bits: int = 8,
        form: Literal["matrix", "cp"] = "matrix",
        until: float = 0.5,
    ):
        super().__init__()
        if form not in ("matrix", "cp"):
            raise ConfigError(f"QuantisedFactors: form must be 'matrix' or 'cp', got {form!r}")
        self.share = real("QuantisedFactors: share", share, 0, 1)
        self.bits = whole("QuantisedFactors: bits", bits, 2)
        if self.bits > 16:
            raise ConfigError(f"QuantisedFactors: bits must be at most 16, got {bits}")
        self.form = form
        self.until = real("QuantisedFactors: until", until, 0, 1)
        self._rows: list[str] = []

    def setup(self, run: Run) -> Needs:
        """Replace layers.

        Raises:
            ConfigError: if there is none.
        """
        net = run.net.net
        found = {name: row for name, layer in net.named_modules() if name and (row := self.row_of(layer))}
        if not found:
            raise ConfigError(
                "QuantisedFactors: no linear layer or convolution without gate and groups is so large that factors "
                "have fewer weights; take a wider network"
            )
        for name, row in found.items():
            net.set_submodule(name, row)
        run.net.exchange(net)
        self._rows = list(found)
        return Needs((Phase("train", share=self.until), Phase("tune", share=1 - self.until)))

    def row_of(self, layer: Any) -> nn.Sequential | None:
        """The layers that take the place of one, with the nearest weights; ``None`` where it stays.

        Args:
            layer: Any module.
        """
        if type(layer) not in FACTORED or getattr(layer, "groups", 1) != 1 or not layer.weight.requires_grad:
            return None
        tensor = _tensor(layer.weight.detach(), self.form)
        column = sum(tensor.shape)
        rank = max(1, int(self.share * tensor.numel() / column))
        return _row(layer, without_grid(tensor, rank)) if rank * column < tensor.numel() else None

    def grads(self, run: Run) -> None:
        """Let factors rest that are on their grids."""
        if run.phase.name == "tune":
            for name in self._rows:
                for layer in run.net.net.get_submodule(name).children():
                    layer.get_parameter("weight").grad = None

    def decide(self, run: Run) -> Decision:
        """Put factors on grids, as the first phase ends."""
        decision = Decision()
        if run.phase.name != "train":
            return decision
        for name in self._rows:
            weights = {key: layer.get_parameter("weight").detach() for key, layer in _parts(run.net.net, name)}
            factors = [_factor(key, weight) for key, weight in weights.items()]
            found, spent = run.engine.broadcast(quantised(product(factors), factors, self.bits))
            decision.spent += spent
            for (key, weight), factor in zip(weights.items(), found, strict=True):
                decision.assign[f"{name}.{key}.weight"] = _weight(key, factor, weight)
        return decision


def _parts(net: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The layers of a row, that of the outputs first, as factors are ordered."""
    return sorted(net.get_submodule(name).named_children(), key=lambda part: ("last", "first", "depth").index(part[0]))


def _tensor(weight: Tensor, form: str) -> Tensor:
    """A weight as it is factorised: outputs by inputs, or by inputs by places; float64 on the host.

    Args:
        weight: Shape ``(outputs, inputs, ...)``.
        form: See `QuantisedFactors`.
    """
    whole = weight.double().cpu()
    return whole.flatten(2) if form == "cp" and whole[0, 0].numel() > 1 else whole.flatten(1)


def _factor(key: str, weight: Tensor) -> Tensor:
    """The factor that a layer of a row holds, see `_weight`."""
    rows = weight.double().cpu().flatten(1)
    return rows if key == "last" else rows.T


def _weight(key: str, factor: Tensor, like: Tensor) -> Tensor:
    """What a layer of a row holds of a factor.

    Args:
        key: Which it is.
        factor: Shape ``(n, R)``.
        like: Of the same shape, dtype and device.
    """
    return (factor if key == "last" else factor.T).reshape(like.shape).to(like)


def _row(layer: Any, factors: list[Tensor]) -> nn.Sequential:
    """Layers in a row that give what their factors' product would, with the bias of the layer.

    Args:
        layer: The layer.
        factors: Of outputs, of inputs, and if there are three, of places.
    """
    kind, rank, bias = type(layer), factors[0].shape[1], layer.bias is not None
    if kind is nn.Linear:
        parts = {"first": kind(layer.in_features, rank, bias=False), "last": kind(rank, layer.out_features, bias)}
    else:
        seen = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        size = layer.kernel_size
        if len(factors) == 2:
            parts = {"first": kind(layer.in_channels, rank, size, bias=False, **seen)}
        else:
            parts = {"first": kind(layer.in_channels, rank, 1, bias=False)}
            parts["depth"] = kind(rank, rank, size, groups=rank, bias=False, **seen)
        parts["last"] = kind(rank, layer.out_channels, 1, bias=bias)
    row = nn.Sequential(OrderedDict(parts)).to(layer.weight)
    with torch.no_grad():
        for key, factor in zip(("last", "first", "depth"), factors, strict=False):
            part = row.get_submodule(key)
            part.get_parameter("weight").copy_(_weight(key, factor, part.get_parameter("weight")))
        if bias:
            row.get_submodule("last").get_parameter("bias").copy_(layer.bias)
    return row.train(layer.training)
