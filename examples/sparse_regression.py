"""The demonstration of DropNeuron: a regression on 20 inputs of which two matter, and a network that finds it.

    python examples/sparse_regression.py

Pan, Dong & Guo (2016) show their penalties on 1000 examples, half of them for training: 20 inputs of standard deviation
10, two weights that are not 0, no noise, and a linear network of 5 hidden units. Their code reports 3 of 105 weights, 2
of 20 inputs and a relative squared error of 3.6e-4; dropout in place of the penalties gives 0.539. Here the same is
done by the library's method, to which the norms of the inputs' weights are added as in their demonstration, and which
trains what is left without penalties. Batches have 10 examples in place of one, so a rate of 0.03 stands in for theirs
of 0.001, and a threshold of 0.05 for theirs of 0.01.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.methods import Method, Run, get_method
from bayesprune.methods.dropneuron import SCALE, DropNeuron

THEIRS = {"weights": 3, "inputs": 2, "error": 3.6e-4}


class WithInputs(DropNeuron):
    """The norms of what each input writes are penalised, too."""

    def loss(self, run: Run) -> Tensor | float:
        """As DropNeuron, and the same penalty for the columns of the first matrix."""
        if run.phase.name != "train":
            return 0.0
        first = next(site.weight for site in run.sites if site.kind == "weight")
        columns = (first.square().sum(0) + 1e-30).sqrt().sum()
        return super().loss(run) + SCALE * self.groups * columns


def data(examples: int, inputs: int = 20, matter: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets without noise, and the weights that made them.

    Args:
        examples: How many.
        inputs: How many each has.
        matter: How many of these count.
    """
    truth = torch.zeros(inputs, 1)
    truth[torch.randperm(inputs)[:matter]] = 10 * torch.randn(matter, 1)
    x = 10 * torch.randn(examples, inputs)
    return x, x @ truth, truth


def trained(x: Tensor, y: Tensor, method: str | Method) -> nn.Module:
    """A linear network of 5 hidden units; half the squared error is its loss, so penalties are half of theirs.

    Args:
        x: Inputs.
        y: Targets.
        method: What prunes it.
    """
    torch.manual_seed(1)
    net = nn.Sequential(layers.Linear(x.shape[1], 5, gate="unit"), nn.Linear(5, 1))
    loader = DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True)
    settings = bp.training.Settings(lr=3e-2)
    bp.fit(net, loader, epochs=100, method=method, likelihood="gaussian", settings=settings)
    return net


def report(name: str, net: nn.Module, x: Tensor, y: Tensor) -> tuple[int, list[int], float]:
    """Weights and inputs that are left, and the squared error relative to that of nothing; printed in a line.

    Args:
        name: What is reported.
        net: The network.
        x: Inputs that it has not seen.
        y: Their targets.
    """
    with torch.no_grad():
        error = float((net(x) - y).square().sum() / y.square().sum())
        left = sum(int((layer.weight != 0).sum()) for layer in net)
        used = (net[0].weight != 0).any(0).nonzero()[:, 0].tolist()
    print(f"{name:22} {left:4} of 105 weights, {len(used):3} of 20 inputs, relative squared error {error:.1e}")
    return left, used, error


def main() -> None:
    """Plain training, dropout and DropNeuron on the same data."""
    torch.manual_seed(0)
    x, y, truth = data(1000)
    train, test = (x[:500], y[:500]), (x[500:], y[500:])
    report("plain training", trained(*train, "none"), *test)
    report("dropout", trained(*train, get_method("dropout_norms", units=0.5, l1=1.0)), *test)
    method = WithInputs(l1=25.0, groups=125.0, threshold=0.05, until=0.9)
    left, used, error = report("DropNeuron", trained(*train, method), *test)
    print(f"{'theirs':22} {THEIRS['weights']:4} of 105 weights, {THEIRS['inputs']:3} of 20 inputs, "
          f"relative squared error {THEIRS['error']:.1e}")  # fmt: skip
    assert used == truth[:, 0].nonzero()[:, 0].tolist(), "the inputs that made the targets, and no other"
    assert left <= 15, "a few weights of 105 do it"
    assert error < 1e-3


if __name__ == "__main__":
    main()
