"""What the records of layers share whose outputs are weighted sums of the entries of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.layers import NormalLayer
from bayesprune.ops.call import NEEDS_SHAPES, Call
from bayesprune.ops.entrywise import silenced
from bayesprune.ops.features import Features, Read, Step
from bayesprune.ops.registry import Parts, Role


def layer(entries: Callable[[Call], Step]) -> Callable[[Call], Step]:
    """The rule of a layer with weights of its own, followed by its gate if it has one."""

    @wraps(entries)
    def rule(call: Call) -> Step:
        module = call.module
        if not all(isinstance(p, nn.Parameter) for p in (module.weight, module.bias) if p is not None):
            return call.wall(f"reaches {call.name}, whose weight is computed from other parameters")
        step = entries(call)
        off = call.following.off.get(getattr(module, "gate", None))  # type: ignore[arg-type]
        if step.out is not None and off is not None:
            step.out = replace(step.out, value=silenced(step.out.value, off.expand(len(step.out))))
        return step

    return rule


def dense(call: Call, seen: Features | None, sizes: tuple[int, int], out: tuple[int, int | None], spoilt: str) -> Step:
    """Every output is made of every input.

    Args:
        call: The call.
        seen: What is known of the input, along the axis that the layer reads; ``None`` if it is along another.
        sizes: Numbers of inputs and outputs.
        out: Axis and rank of the output.
        spoilt: Why a constant that is left does not fold into the bias, if it does not.
    """
    source, value = call.source, torch.full((sizes[1],), torch.nan, dtype=torch.float64)
    x = call.known[source]
    own = None
    if call.following.layers:
        own = Features(call.following.fresh(sizes[1]), value, *out)
    if x is None:
        return Step(own)
    if seen is None:
        return Step(own, pins=[source], reason=_elsewhere(call, x))
    seen.entries(sizes[0], call.name)
    reason = spoilt
    if call.module.bias is None:
        reason = f"{call.name} has no bias to take up the constant that is left"
    must = ~x.unknown & (x.value != 0) if reason else torch.zeros(len(x), dtype=torch.bool)
    return Step(own, reads=[Read(source, must, reason)])


def _elsewhere(call: Call, x: Features) -> str:
    """Why a layer does not read the axis of ``x``."""
    if x.rank is None and x.axis not in (1, -1):
        return f"has its features along dimension {x.axis} of a tensor of unknown rank; {NEEDS_SHAPES}"
    return f"has its features along another dimension than {call.name} reads"


def weighted(module: nn.Module, roles: tuple[Role, ...], sizes: Mapping[str, Role]) -> Parts:
    """The parts of a layer with weight and bias, and their log σ if it has Normal weights.

    Args:
        module: The layer.
        roles: What the leading dimensions of its weight run along.
        sizes: Attributes that hold the number of inputs or outputs.
    """
    tensors: dict[str, tuple[Role, ...]] = {"weight": roles, "bias": ("out",)}
    if isinstance(module, NormalLayer):
        tensors |= {"weight_log_scale": roles, "bias_log_scale": ("out",)}
    return Parts(tensors, sizes)


@torch.no_grad()
def fold(module: Any, constants: Tensor) -> list[str]:
    """Add what constant inputs contribute to the bias, and to its variance, in float64.

    Args:
        module: The layer.
        constants: The value of each input that is to go, 0 for the others, shape ``(n_in,)``.

    Returns:
        The attributes that changed.
    """
    if module.bias is None or not bool(constants.any()):
        return []
    constants = constants.to(module.weight.device)
    module.bias.copy_(module.bias.double() + _taps(module.weight) @ constants)
    if not isinstance(module, NormalLayer) or module.bias_log_scale is None:
        return ["bias"]
    variance = (2 * module.bias_log_scale.double()).exp()
    variance += _taps((2 * module.weight_log_scale.double()).exp()) @ constants.square()
    module.bias_log_scale.copy_(0.5 * variance.log())
    return ["bias", "bias_log_scale"]


def _taps(weight: Tensor) -> Tensor:
    """What each input adds to each output where it is constant, float64: kernels summed over their positions."""
    weight = weight.detach().double()
    return weight.flatten(2).sum(2) if weight.dim() > 2 else weight


def is_normal(module: nn.Module) -> bool:
    """Whether a layer has Normal weights, from which it may draw."""
    return isinstance(module, NormalLayer)
