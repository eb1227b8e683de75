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
    *("alexnet", "resnet18", "squeezenet1_0", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5"),
    *("shufflenet_v2_x0_5", "regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d", "googlenet"),
    *("convnext_tiny", "vit_b_16", "swin_t", "efficientnet_b0", "wide_resnet50_2", "inception_v3", "densenet121"),
    *("efficientnet_v2_s", "swin_v2_t", "maxvit_t"),
)
"""The smallest of each family of torchvision's networks for classification."""
OPTIONS: dict[str, dict[str, Any]] = {
    "vit_b_16": {"image_size": 64},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}
SIDES = {"inception_v3": 128, "maxvit_t": 224}
SIDE = 64
HEAD = (
    *("network", "branches", "heads", "units", "MACs ruled", "by heads and units", "parameters left"),
    *("difference", "convert s", "compact s"),
)


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
        for gate in gates_of(net).values():
            gate.theta[:] = torch.where(torch.rand(gate.size) < off, 0.0, 1.0)
        gated = net(x)
        began = time.process_time()
        small = compact(net, example_input=x)
        compacted = time.process_time() - began
        difference = max(same, _difference(small(x), gated))
    left = cost(small).params / cost(model).params
    found = bp.structures(net, example_input=x)
    sizes = [sum(row.size for row in found if row.kind == kind) for kind in ("branch", "head", "unit")]
    cells = (f"{found.share:.0%}", f"{found.within:.0%}", f"{left:.0%}", f"{difference:.0e}")
    return [*map(str, sizes), *cells, f"{converted:.1f}", f"{compacted:.1f}"]


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def main(names: Sequence[str]) -> None:
    """Print the table.

    Args:
        names: Of torchvision's constructors.
    """
    from torchvision import models

    for cells in (HEAD, ["---"] * len(HEAD)):
        print(f"| {' | '.join(cells)} |", flush=True)
    for name in names:
        torch.manual_seed(0)
        model = getattr(models, name)(weights=None, **OPTIONS.get(name, {})).double().eval()
        _livelier(model)
        try:
            side = SIDES.get(name, SIDE)
            row = checked(model, torch.randn(2, 3, side, side, dtype=torch.float64))
        except Exception as error:
            row = [f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"]
        print(f"| {' | '.join([name, *row])} |", flush=True)


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
