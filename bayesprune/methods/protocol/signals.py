"""Layers as linear maps of signals that were recorded: what methods that solve layer by layer begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from bayesprune.data.inputs import Inputs
from bayesprune.graph import Traced, trace
from bayesprune.ops import operation_of

UNCHANGED = ("gate", "dropout", "dropout, as a function", "identity", "flatten")
"""Operations between a layer and its activation that change no number, gates that are on and in eval mode."""


@dataclass(frozen=True)
class LinearMap:
    """A layer whose outputs are u = W x + b, at every position.

    Attributes:
        name: Of its weight.
        layer: The linear layer or convolution.
        rectified: Whether a ReLU is all that reads the outputs.

    Examples:
        >>> first, last = linear_maps(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4))
        >>> (first.name, first.inputs, first.rectified), (last.name, last.inputs, last.rectified)
        (('0.weight', 4, True), ('2.weight', 3, False))
    """

    name: str
    layer: nn.Module
    rectified: bool

    @property
    def weight(self) -> Tensor:
        """The weight, without gradient."""
        return self.layer.get_parameter("weight").detach()

    @property
    def bias(self) -> Tensor | None:
        """The bias, without gradient, if there is one."""
        return None if self.layer.bias is None else self.layer.get_parameter("bias").detach()

    @property
    def inputs(self) -> int:
        """How many numbers an output is a sum of."""
        return self.weight[0].numel()

    def with_ones(self, drawn: Tensor) -> Tensor:
        """What is multiplied by `matrix`: vectors, and 1 as their last entry if there is a bias, float64."""
        ones = [] if self.bias is None else [torch.ones(len(drawn), 1, dtype=torch.float64)]
        return torch.cat([drawn.double(), *ones], 1)

    def matrix(self) -> Tensor:
        """Its weight, and its bias as the last row if it has one, shape ``(inputs (+ 1), outputs)``, float64, host."""
        rows = [self.weight.flatten(1).T]
        rows += [] if self.bias is None else [self.bias[None]]
        return torch.cat(rows).double().cpu()


def input_of(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What goes into a layer, be it given by its place or by its name; of several the first of its signature.

    Args:
        layer: The layer.
        args: What it is called with.
        kwargs: What it is called with by name.

    Examples:
        >>> float(input_of(nn.Linear(1, 1), (), {"input": torch.ones(1)}))
        1.0
    """
    return args[0] if args else next(iter(signature(layer.forward).bind(**kwargs).arguments.values()))


def is_linear_map(layer: nn.Module) -> bool:
    """Whether a module is a linear layer, or a convolution without groups."""
    plain = isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd) and layer.groups == 1
    return plain or isinstance(layer, nn.Linear)


def vectors(layer: nn.Module, inputs: Tensor, seed: int) -> Tensor:
    """What a row of a layer's weight is multiplied by at one position of every example, shape ``(examples, n)``.

    Args:
        layer: What `is_linear_map` says yes to.
        inputs: What goes into it.
        seed: Of the positions that are drawn: equal for equal seeds and shapes.

    Examples:
        >>> vectors(nn.Conv1d(2, 1, 2), torch.arange(6.0).view(1, 2, 3), seed=0).shape
        torch.Size([1, 4])
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(layer, nn.Linear):
        rows = inputs.flatten(1, -2) if inputs.dim() > 2 else inputs[:, None]
        return rows[torch.arange(len(rows)), torch.randint(rows.shape[1], (len(rows),), generator=generator)]
    return _patches(layer, inputs, generator)


def _patches(layer: Any, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """What a convolution sees at one place of every example.

    Args:
        layer: The convolution.
        inputs: What goes into it.
        generator: Of the places.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    drawn = []
    for example in padded:
        window: list[Any] = [slice(None)]
        for size, step, dilation, length in zip(padded.shape[2:], layer.stride, layer.dilation, reach, strict=True):
            start = step * int(torch.randint((size - length) // step + 1, (), generator=generator))
            window.append(slice(start, start + length, dilation))
        drawn.append(example[tuple(window)].flatten())
    return torch.stack(drawn)


def linear_maps(net: nn.Module, example: Inputs) -> list[LinearMap]:
    """The linear layers and convolutions without groups that are called once and are trained, in the order of calls.

    Args:
        net: The network.
        example: Inputs.

    Raises:
        TraceError: if the network cannot be followed.
    """
    traced = trace(net, example)
    found = []
    for node in traced.graph.nodes:
        layer: Any = traced.module(node)
        if layer is None or not is_linear_map(layer) or str(node.target) in {*traced.fixed, *traced.repeated}:
            continue
        if layer.weight.requires_grad:
            found.append(LinearMap(f"{node.target}.weight", layer, _rectified(traced, node)))
    return found


def _rectified(traced: Traced, node: fx.Node) -> bool:
    """Whether ReLUs are all that reads what a call gives, behind what changes no number or at once."""
    names = {user: operation_of(user, traced.module(user)).name for user in node.users}
    return bool(names) and all(
        name == "relu" or (name in UNCHANGED and _rectified(traced, user)) for user, name in names.items()
    )
