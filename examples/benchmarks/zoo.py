"""Convert torchvision's networks, switch random gates off, compact, and compare: `python zoo.py [NAME ...]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.layers import gates_of
from bayesprune.pruning import compact, cost

NAMES = (
    *("resnet18", "vgg11_bn", "alexnet", "mobilenet_v2", "densenet121", "efficientnet_b0", "regnet_y_400mf"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "googlenet", "convnext_tiny", "vit_b_16", "swin_t"),
)
OPTIONS: dict[str, dict[str, Any]] = {"vit_b_16": {"image_size": 64}, "googlenet": {"init_weights": False}}
HEAD = ("network", "branches", "units", "MACs ruled", "parameters left", "difference", "convert s", "compact s")


def checked(model: nn.Module, x: torch.Tensor, off: float = 0.3) -> list[str]:
    """One row of the table.

    Args:
        model: The network, float64, in eval mode.
        x: Two examples.
        off: The share of gates that are switched off.
    """
    began = time.process_time()
    net = bp.convert(model, example_input=x)
    converted = time.process_time() - began
    with torch.no_grad():
        same = _difference(net(x), model(x))
        gates = gates_of(net)
        blocks = sum(gate.size == 1 for gate in gates.values())
        for gate in gates.values():
            gate.theta[:] = torch.where(torch.rand(gate.size) < off, 0.0, 1.0)
        gated = net(x)
        began = time.process_time()
        small = compact(net, example_input=x)
        compacted = time.process_time() - began
        difference = max(same, _difference(small(x), gated))
    units = sum(gate.size for gate in gates.values()) - blocks
    left = cost(small).params / cost(model).params
    ruled = bp.structures(net, example_input=x).share
    cells = (f"{ruled:.0%}", f"{left:.0%}", f"{difference:.0e}", f"{converted:.1f}", f"{compacted:.1f}")
    return [str(blocks), str(units), *cells]


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def main(names: Sequence[str]) -> None:
    """Print the table.

    Args:
        names: Of torchvision's constructors.
    """
    from torchvision import models

    print(" | ".join(HEAD), flush=True)
    for name in names:
        torch.manual_seed(0)
        model = getattr(models, name)(weights=None, **OPTIONS.get(name, {})).double().eval()
        _livelier(model)
        try:
            row = checked(model, torch.randn(2, 3, 64, 64, dtype=torch.float64))
        except Exception as error:
            row = [f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"]
        print(" | ".join([name, *row]), flush=True)


def _livelier(model: nn.Module) -> None:
    """Statistics and scales as after training: none is 0 or 1, so that a wrong cut shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, p in model.named_parameters():
        if "layer_scale" in name or not bool(p.any()):
            nn.init.uniform_(p, 0.5, 1.5)


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
