"""What takes the place of a branch that goes: the linear map nearest to it, rather than nothing.

    python examples/fuse_layers.py

A residual block y = x + F(x) whose gate is off becomes the identity. Fusing layers asks for more: of all maps W x + c,
which gives nearly what the block gave? By least squares it is W = Cov(y, x) Cov(x)⁻¹ with the c of equal means, and no
map of a linear layer is nearer; where x is Gaussian and F(x) = B relu(A x + b), it is known in closed form. The example
checks both, trains a residual network on digits, lets each block go in turn, and scores what is left with the identity
and with the map in its place. (That a deep network's pairs of layers be fused by least squares is from the abstract of
"FuseInit"; the formulas are ours.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers


def nearest_map(x: Tensor, y: Tensor) -> nn.Linear:
    """The linear layer whose outputs for x are the nearest to y, in mean squares.

    Args:
        x: What goes in, shape ``(N, n)``.
        y: What should come out, shape ``(N, m)``.
    """
    x, y = x.double(), y.double()
    center, mean = x.mean(0), y.mean(0)
    ridge = 1e-9 * x.var(0).mean() * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve((x - center).T @ (x - center) / len(x) + ridge, (x - center).T @ (y - mean) / len(x)).T
    layer = nn.Linear(x.shape[1], y.shape[1])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(mean - weight @ center)
    return layer


def of_gaussian(a: Tensor, b: Tensor, out: Tensor, center: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """W and c nearest to B relu(A x + b) for x of a normal law: W = B diag(Φ(μ/s)) A with μ and s of A x + b.

    Args:
        a: A.
        b: b.
        out: B.
        center: Mean of x.
        covariance: That of x.
    """
    mu, s = a @ center + b, (a @ covariance @ a.T).diagonal().sqrt()
    share = 0.5 * (1 + torch.erf(mu / s / math.sqrt(2)))  # Φ, how often a unit speaks
    means = mu * share + s * torch.exp(-0.5 * (mu / s) ** 2) / math.sqrt(2 * math.pi)
    weight = out @ torch.diag(share) @ a
    return weight, out @ means - weight @ center


def check_closed_form() -> float:
    """How far the map of 400,000 draws lies from the closed form, at most in any entry."""
    generator = torch.Generator().manual_seed(0)
    a, out, mix = (torch.randn(shape, generator=generator) for shape in ((6, 3), (2, 6), (3, 3)))
    b, center = torch.randn(6, generator=generator), torch.randn(3, generator=generator)
    mix = torch.eye(3) + 0.3 * mix
    x = center + torch.randn(400_000, 3, generator=generator) @ mix.T
    found = nearest_map(x, (x @ a.T + b).relu() @ out.T)
    weight, bias = of_gaussian(a, b, out, center, mix @ mix.T)
    return float(torch.cat([(found.weight - weight).detach().flatten(), (found.bias - bias).detach()]).abs().max())


def network() -> nn.Sequential:
    """A residual network of four blocks."""
    torch.manual_seed(0)
    blocks = [layers.Residual(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))) for _ in range(4)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *blocks, nn.Linear(32, 10))


@torch.no_grad()
def without(net: nn.Sequential, block: int, x: Tensor) -> tuple[nn.Sequential, nn.Sequential]:
    """The network with the identity, and with the nearest map, in place of a block.

    Args:
        net: The network.
        block: Place of the block.
        x: Training inputs.
    """
    before = net[:block](x)
    fused = nearest_map(before, net[block](before))
    parts = list(net)
    return tuple(nn.Sequential(*parts[:block], new, *parts[block + 1 :]) for new in (nn.Identity(), fused))


@torch.no_grad()
def right(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of examples whose class is found."""
    return float((net(x).argmax(1) == y).float().mean())


def main() -> None:
    """The closed form, then digits."""
    apart = check_closed_form()
    print(f"nearest map of 400,000 Gaussian draws and closed form differ by {apart:.4f} at most")
    assert apart < 0.02
    splits = bp.data.load("digits")
    train, test = bp.data.loaders(splits, batch_size=64, seed=0)
    net = network()
    bp.fit(net, train, epochs=20, method="none", settings=bp.training.Settings(lr=3e-3))
    net.eval()
    (x, _), (x_test, y_test) = (tuple(map(torch.cat, zip(*loader, strict=True))) for loader in (train, test))
    whole = right(net, x_test, y_test)
    print(f"all blocks: accuracy {whole:.3f}")
    identity, fused = [], []
    for block in range(2, 6):
        plain, near = (right(small, x_test, y_test) for small in without(net, block, x))
        print(f"block {block - 1} is the identity: {plain:.3f}; the nearest map: {near:.3f}")
        identity.append(plain)
        fused.append(near)
    assert whole > 0.9
    assert sum(fused) > sum(identity), "fused blocks keep more of what was learned"
    assert min(fused) > min(identity)


if __name__ == "__main__":
    main()
