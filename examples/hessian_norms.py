"""Is a fresh network well scaled? The size of the Hessian of each layer's weights, as a diagnostic before training.

    python examples/hessian_norms.py

Where a network is piecewise linear, the block of the Hessian of one example's loss that belongs to the weight W of a
layer is (Jᵀ H J) ⊗ z zᵀ: z goes into the layer, J is the derivative of the outputs for what it gives, H the Hessian of
the loss for the outputs. Its norm is that of Jᵀ H J times ‖z‖². The example checks this identity against torch's own
second derivatives. Then it takes deep networks as torch makes them, with He's initialisation and with one that is too
small, finds the norm of each layer's block by products with vectors alone, and prints the largest, and how many times
the smallest that is. Sizes near 1 that are alike are healthy; where layers differ by thousands, or none has any
curvature, no one learning rate serves, and it shows here before the first step. (That such norms say how well a network
trains is from an abstract on a chain rule for Hessians of layers; the identity is ours.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_of_block(net: nn.Module, weight: nn.Parameter, x: Tensor, y: Tensor, steps: int = 20) -> float:
    """The largest eigenvalue, in size, of the Hessian of the mean loss for one weight, by power iteration.

    Args:
        net: The network.
        weight: Its weight.
        x: Inputs.
        y: Classes.
        steps: Products of the Hessian and a vector.
    """
    (slope,) = torch.autograd.grad(F.cross_entropy(net(x), y), weight, create_graph=True)
    vector = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    size = 0.0
    for _ in range(steps):
        vector = vector / vector.norm()
        (vector,) = torch.autograd.grad(slope, weight, vector, retain_graph=True)
        size = float(vector.norm())
    return size


def by_identity(net: nn.Sequential, place: int, x: Tensor, y: Tensor) -> float:
    """‖Jᵀ H J‖ ‖z‖² of one example.

    Args:
        net: The network.
        place: Of the layer in it.
        x: One input, shape ``(1, n)``.
        y: Its class.
    """
    z = net[:place](x).detach()
    given = net[place](z).detach()
    block = torch.autograd.functional.hessian(lambda u: F.cross_entropy(net[place + 1 :](u), y), given)
    return float(torch.linalg.matrix_norm(block.reshape(given.numel(), -1), 2) * z.square().sum())


def by_torch(net: nn.Sequential, place: int, x: Tensor, y: Tensor) -> float:
    """The same from the whole Hessian of the weight, as torch finds it.

    Args:
        net: The network.
        place: Of the layer in it.
        x: One input.
        y: Its class.
    """
    z, bias = net[:place](x).detach(), net[place].bias

    def loss(weight: Tensor) -> Tensor:
        return F.cross_entropy(net[place + 1 :](F.linear(z, weight, bias)), y)

    weight = net[place].weight.detach()
    whole = torch.autograd.functional.hessian(loss, weight).reshape(weight.numel(), -1)
    return float(torch.linalg.matrix_norm(whole, 2))


def network(widths: list[int], initialise: Callable[[Tensor], object] | None = None) -> nn.Sequential:
    """A network of linear layers and ReLUs, in float64.

    Args:
        widths: From inputs to classes.
        initialise: What fills the weights; ``None`` for what torch does.
    """
    torch.manual_seed(0)
    net = nn.Sequential()
    for n, m in pairwise(widths):
        layer = nn.Linear(n, m)
        if initialise is not None:
            initialise(layer.weight)
            nn.init.zeros_(layer.bias)
        net.extend([layer, nn.ReLU()])
    return net[:-1].double()


def sizes(net: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The largest norm of a layer's block, and the largest over the smallest.

    Args:
        net: The network.
        x: Inputs.
        y: Classes.
    """
    norms = [norm_of_block(net, layer.weight, x, y) for layer in net if isinstance(layer, nn.Linear)]
    return max(norms), max(norms) / min(norms)


def main() -> None:
    """The identity, then three initialisations."""
    net, x, y = network([6, 8, 7, 4]), torch.randn(1, 6, dtype=torch.float64), torch.tensor([2])
    for place in (0, 2, 4):
        one, other = by_identity(net, place, x, y), by_torch(net, place, x, y)
        third = norm_of_block(net, net[place].weight, x, y)
        print(f"layer {place // 2}: {one:.6f} by the identity, {other:.6f} by torch, {third:.6f} by power iteration")
        assert abs(one - other) < 1e-8 * max(1.0, one)
        assert abs(third - other) < 0.05 * other
    x, y = torch.randn(64, 32, dtype=torch.float64), torch.randint(10, (64,))

    def small(weight: Tensor) -> Tensor:
        return nn.init.normal_(weight, std=0.02)

    deep = [32, *[64] * 8, 10]
    ways = {"torch's": None, "He's": nn.init.kaiming_normal_, "N(0, 0.02²)": small}
    found = {name: sizes(network(deep, how), x, y) for name, how in ways.items()}
    for name, (largest, ratio) in found.items():
        print(f"nine layers, {name} initialisation: the largest norm is {largest:.2g}, {ratio:.2g} times the smallest")
    assert 0.1 < found["He's"][0] < 100 and found["He's"][1] < 100
    assert all(largest < 0.01 or ratio > 1000 for name, (largest, ratio) in found.items() if name != "He's")


if __name__ == "__main__":
    main()
