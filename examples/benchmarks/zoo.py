"""Convert networks of torchvision, switch random gates off, compact, compare, save, export: `python zoo.py [NAME ...]`.

Every network has a process of its own. Names are those of torchvision's constructors, for classification and
segmentation; without one all of them are taken, and `--smallest` takes the smallest of each family.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.layers import gates_of
from bayesprune.pruning import compact, cost, export_onnx, export_torch

SMALLEST = (
    *("alexnet", "resnet18", "squeezenet1_0", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5"),
    *("shufflenet_v2_x0_5", "regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d", "googlenet"),
    *("convnext_tiny", "vit_b_16", "swin_t", "efficientnet_b0", "wide_resnet50_2", "inception_v3", "densenet121"),
    *("efficientnet_v2_s", "swin_v2_t", "maxvit_t", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"),
    *("fcn_resnet50", "deeplabv3_resnet50"),
)
"""The smallest of each family of torchvision's networks for classification and segmentation."""
SIDES = {"inception_v3": 128, "maxvit_t": 224}
SIDE = 64
SHALLOW = "vit_h_14", "regnet_y_128gf"
"""Networks of more than 600 million parameters: they are taken with two blocks, or two a stage, of their width."""
CLASSES = 10
HEAD = (
    *("network", "branches", "heads", "units", "MACs ruled", "by heads and units", "parameters left"),
    *("difference", "convert s", "compact s", "saved", "ONNX", "torch.export"),
)
LIMIT_S = 1200


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="torchvision's constructors")
    parser.add_argument("--smallest", action="store_true", help="the smallest of each family")
    parser.add_argument("--export", action="store_true", help="write and run ONNX and torch.export too")
    options = parser.parse_args()
    names = options.names or (SMALLEST if options.smallest else every_name())
    if len(names) == 1:
        print(f"| {' | '.join([names[0], *row_of(names[0], options.export)])} |", flush=True)
        return
    for cells in (HEAD, ["---"] * len(HEAD)):
        print(f"| {' | '.join(cells)} |", flush=True)
    flags = ["--export"] * options.export
    for name in names:
        try:
            subprocess.run([sys.executable, __file__, name, *flags], timeout=LIMIT_S, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"| {name} | {type(error).__name__} |", flush=True)


def every_name() -> list[str]:
    """The names of torchvision's networks for classification and segmentation."""
    from torchvision import models

    return [*models.list_models(module=models), *models.list_models(module=models.segmentation)]


def network(name: str) -> nn.Module:
    """The network of a name, float64, in eval mode, with weights unlike those that none was trained to.

    Args:
        name: As in ``torchvision.models.list_models``.
    """
    from torchvision import models

    given: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if name in models.list_models(module=models.segmentation):
        given["weights_backbone"] = None
    if name.startswith("vit_"):
        given["image_size"] = SIDE
    if name in ("googlenet", "inception_v3"):
        given["init_weights"] = False
    torch.manual_seed(0)
    model = shallow(name) if name in SHALLOW else models.get_model(name, **given)
    _livelier(model.double().eval())
    return model


def shallow(name: str) -> nn.Module:
    """One of `SHALLOW`.

    Args:
        name: Of the network.
    """
    from torchvision.models import VisionTransformer
    from torchvision.models.regnet import BlockParams, RegNet

    if name == "vit_h_14":
        return VisionTransformer(SIDE - SIDE % 14, 14, 2, 16, 1280, 5120, num_classes=CLASSES)
    blocks = BlockParams.from_init_params(27, w_0=456, w_a=160.83, w_m=2.52, group_width=264, se_ratio=0.25)
    blocks.depths = [min(depth, 2) for depth in blocks.depths]
    return RegNet(blocks, num_classes=CLASSES)


def row_of(name: str, exported: bool) -> list[str]:
    """One row of the table, or what stopped it.

    Args:
        name: Of the network.
        exported: Whether it is exported as well.
    """
    model = network(name)
    side = SIDES.get(name, getattr(model, "image_size", SIDE))
    try:
        return checked(model, torch.randn(2, 3, side, side, dtype=torch.float64), exported)
    except Exception as error:
        return [f"{type(error).__name__}: {_line(error)}"]


def checked(model: nn.Module, x: torch.Tensor, exported: bool = False, off: float = 0.3) -> list[str]:
    """What becomes of a network, as cells of the table.

    Args:
        model: The network, float64, in eval mode.
        x: Two examples.
        exported: Whether it is exported as well.
        off: The share of gates that are switched off.
    """
    began = time.process_time()
    net = bp.convert(model, example_input=x)
    converted = time.process_time() - began
    with torch.no_grad():
        same = difference(net(x), model(x))
        for gate in gates_of(net).values():
            gate.theta[:] = torch.where(torch.rand(gate.size) < off, 0.0, 1.0)
        gated = net(x)
        began = time.process_time()
        small = compact(net, example_input=x)
        compacted = time.process_time() - began
        worst = max(same, difference(small(x), gated))
    left = cost(small).params / cost(model).params
    found = bp.structures(net, example_input=x)
    sizes = [sum(row.size for row in found if row.kind == kind) for kind in ("branch", "head", "unit")]
    cells = [f"{found.share:.0%}", f"{found.within:.0%}", f"{left:.0%}", f"{worst:.0e}"]
    cells += [f"{converted:.1f}", f"{compacted:.1f}", _saved(small, x)]
    return [*map(str, sizes), *cells, *(_exported(small.float(), x.float()) if exported else ("-", "-"))]


def difference(a: Any, b: Any) -> float:
    """The largest difference of two outputs, relative to the largest entry of the second.

    Args:
        a: A tensor, or tensors by name.
        b: The same.
    """
    if isinstance(b, Mapping):
        return max(difference(a[name], b[name]) for name in b)
    return float((a - b).abs().max() / b.abs().max())


def _saved(small: nn.Module, x: torch.Tensor) -> str:
    """Whether a network comes back from its file as it was, or why not.

    Args:
        small: The network.
        x: Two examples.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "small.safetensors"
        try:
            bp.save(small, path)
        except bp.errors.BayesPruneError as error:
            return _line(error)
        apart = difference(bp.load(path)(x), small(x))
    return "yes" if apart == 0 else f"{apart:.0e}"


def _exported(small: nn.Module, x: torch.Tensor) -> list[str]:
    """How far apart a network and its exported forms are for batches of another size, or why there is none.

    Args:
        small: The network, float32.
        x: Two examples, float32.
    """
    import onnxruntime

    cells = []
    three = torch.cat([x, -x[:1]])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = small(three)
        for export, name in ((export_onnx, "small.onnx"), (export_torch, "small.pt2")):
            path = Path(folder) / name
            try:
                export(small, x, path)
                if path.suffix == ".onnx":
                    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                    found: Any = [torch.from_numpy(y) for y in session.run(None, {"input": three.numpy()})]
                    found = dict(zip(wanted, found, strict=True)) if isinstance(wanted, Mapping) else found[0]
                else:
                    found = torch.export.load(path).module()(three)
                cells.append(f"{difference(found, wanted):.0e}")
            except Exception as error:
                cells.append(f"{type(error).__name__}: {_line(error)}")
    return cells


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


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
    main()
