"""What layers give where sizes alone are asked for: zeros, for which nothing is multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def sizes_alone(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a module gives, or zeros of the same shapes if it is one of torch's layers that multiply most.

    Args:
        module: The module.
        args: What it is given by place.
        kwargs: What it is given by name.
    """
    x = args[0] if args and isinstance(args[0], Tensor) else None
    weight = getattr(module, "weight", None)
    if x is not None and len(args) == 1 and not kwargs and isinstance(weight, Tensor) and weight.dtype == x.dtype:
        if type(module) is nn.Linear and x.shape[-1:] == weight.shape[1:]:
            return x.new_zeros(*x.shape[:-1], len(weight))
        if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            return _convolved(module, x)
    if type(module) is nn.MultiheadAttention and len(args) == 3 and kwargs == {"need_weights": False}:
        to_itself = x is not None and x is args[1] is args[2]
        if to_itself and x.dim() == 3 and x.shape[-1] == module.embed_dim:  # type: ignore[union-attr]
            return torch.zeros_like(x), None  # type: ignore[arg-type]
    return module(*args, **kwargs)


def _convolved(module: Any, x: Tensor) -> Tensor:
    """Zeros of the shape that a convolution gives, by torch's own rules.

    Args:
        module: The convolution.
        x: What it is given.

    Raises:
        RuntimeError: for what it does not take.
    """
    bias = None if module.bias is None else module.bias.to("meta")
    shape = module._conv_forward(x.to("meta"), module.weight.to("meta"), bias).shape
    return x.new_zeros(shape) if min(shape) > 0 else module(x)  # torch 2.6 computes sizes of what it refuses to compute
