"""Channels last is kept from the one operation of torch on the CPU that then writes out of bounds.

The gradient of the weights of a strided convolution with kernel 1x1 (oneDNN's ``jit_1x1``, x86-64, float32) overruns a
buffer if maps or weights lie channels last and the maps have fewer channels than a vector has lanes, 8 with AVX2 and 16
with AVX-512 (uxlfoundation/oneDNN issue 6035). The interpreter aborts, or gradients are wrong without a word. torch
2.6.0, 2.14.1 and 2.15.0 all do so, whose oneDNN is 3.5.3, 3.12.0 and 3.13.3. The smallest case::

    x = torch.randn(32, 4, 64, 64).to(memory_format=torch.channels_last)
    weight = torch.randn(8, 4, 1, 1, requires_grad=True)
    torch.nn.functional.conv2d(x, weight, stride=2).sum().backward()

Maps of more channels are safe, but pruning can leave fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.layers import eval_mode
from bayesprune.methods.protocol import Model

LANES = 16
"""Channels of maps, in each group of the convolution, from which on channels last is safe."""


def has_strided_pointwise(net: nn.Module) -> bool:
    """Whether ``net`` has a convolution with kernel 1x1 and a stride, so that a CPU must not train it channels last."""
    return any(
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
        for module in net.modules()
    )


@torch.no_grad()
def check_layout(net: Model, example: Inputs) -> None:
    """Refuse a network that itself brings maps into the layout in which torch would write out of bounds.

    Args:
        net: A network that is placed on the CPU.
        example: One example, laid out as in training.

    Raises:
        ConfigError: if a strided convolution with kernel 1x1 computes channels last on fewer than 16 channels, or on
            channels that pruning may remove.
    """
    refusal = _Refusal(shrinks=net.num_shared < net.num_gates)
    with eval_mode(net), torch.random.fork_rng(devices=[]), refusal:
        net(example, torch.ones(1, net.num_gates))


class _Refusal(TorchDispatchMode):
    """Raises at the convolution that `check_layout` refuses."""

    def __init__(self, shrinks: bool):
        super().__init__()
        self._shrinks = shrinks

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            weight, stride, transposed = args[1], args[3], args[6]
            strided = weight.shape[2:] == (1, 1) and any(step > 1 for step in stride) and not transposed
            if strided and _is_channels_last(result) and (self._shrinks or weight.shape[1] < LANES):
                raise ConfigError(
                    f"fit: a convolution with kernel 1x1 and stride {tuple(stride)} gets {weight.shape[1]} channels in "
                    "memory format channels last, where torch writes out of bounds in training on a CPU; call "
                    ".contiguous() on its input and leave its weights contiguous, or train on another device"
                )
        return result


def _is_channels_last(maps: Tensor) -> bool:
    """Whether the entries of a pixel lie side by side; for a single pixel there is nothing to tell."""
    return maps.shape[2:].numel() > 1 and maps.stride(1) == 1 and maps.stride(3) == maps.shape[1]
