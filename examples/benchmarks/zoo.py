"""Convert networks that exist, switch random gates off, compact, compare, save, export: `python zoo.py [NAME ...]`.

Every network has a process of its own. Names are those of torchvision's constructors, for classification and
segmentation, or `timm:` and one of timm's. Without one all of torchvision's are taken, `--smallest` takes the smallest
of each of its families, and `timm` one of each of timm's. With `--out FILE` rows are added to a file, and networks that
have one there are left out, so that a run that was stopped can go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_networks import SMALLEST, every_name, network

import bayesprune as bp
from bayesprune.layers import gates_of
from bayesprune.pruning import compact, cost, export_onnx, export_torch

HEAD = (
    *("network", "branches", "heads", "units", "MACs ruled", "by heads and units", "parameters left"),
    *("difference", "convert s", "compact s", "saved", "ONNX", "torch.export"),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="torchvision's constructors, timm:NAME, or timm")
    parser.add_argument("--smallest", action="store_true", help="the smallest of each family")
    parser.add_argument("--export", action="store_true", help="write and run ONNX and torch.export too")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which a network is given up")
    parser.add_argument("--out", type=Path, help="a file that rows are added to, without which they are printed")
    options = parser.parse_args()
    names = options.names or (SMALLEST if options.smallest else every_name("torchvision"))
    if names == ["timm"]:
        names = every_name("timm")
    there = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    done = {line.split("|")[1].strip() for line in there}
    with options.out.open("a") if options.out else nullcontext(sys.stdout) as file:
        for cells in () if there else (HEAD, ["---"] * len(HEAD)):
            print(_line_of(cells), file=file, flush=True)
        for name in (name for name in names if name not in done):
            print(_line_of([name, *_in_a_process(name, options.export, options.limit)]), file=file, flush=True)


def _line_of(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _in_a_process(name: str, exported: bool, limit: float) -> list[str]:
    """One row of the table, made in a process of its own, which begins with what is imported here.

    Args:
        name: Of the network.
        exported: Whether it is exported as well.
        limit: Seconds after which the process is ended.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(row_of(name, exported)))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit) else [f"not done in {limit:g} s"]
    except EOFError:
        return ["the process has ended without a row"]
    finally:
        process.kill()
        process.join()


def row_of(name: str, exported: bool) -> list[str]:
    """One row of the table, or what stopped it.

    Args:
        name: Of the network.
        exported: Whether it is exported as well.
    """
    try:
        model, side = network(name)
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


if __name__ == "__main__":
    main()
