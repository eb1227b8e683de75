"""Let a deep residual network find out which of its layers it needs, within a budget.

    python examples/find_the_depth.py

A ResNet-20 for the digits: nine blocks relu(x + ξ · F(x)) between a first and a last layer, one gate on each branch F.
It may keep 40 % of its multiply-adds; which blocks these are, and what a block has to be worth to stay, is found while
it trains. A branch whose gate is drawn off is not computed in that step; one whose θ has reached 0 is removed, and its
by-pass stays: the identity, or a 1x1 convolution where a stage begins.
"""

from __future__ import annotations

import torch
from torch import nn

import bayesprune as bp
from bayesprune.infer import Categorical
from bayesprune.training import Budget, History

BUDGET = Budget("macs", 0.4)


def main() -> None:
    """Train a ResNet under the budget; print which blocks are left and what the network costs before and after."""
    torch.manual_seed(0)
    digits = bp.data.load("digits")
    train, test = bp.data.loaders(digits, batch_size=64, seed=0)
    x, y = digits.test[:]
    net = bp.networks.resnet(20, digits.input_shape, digits.num_classes, width=4)
    bnn = bp.BayesianNet(net, Categorical(label_smoothing=0.05), num_data=len(digits.train))
    before, deep = bp.cost(bnn, example_input=x), layers(net)

    history = bp.fit(bnn, train, epochs=16, val_loader=test, settings=bp.recommended(bnn).settings(budget=BUDGET))

    small = bp.compact(bnn.eval())
    after = bp.cost(small, example_input=x)
    accuracy = float((small(x).argmax(1) == y).float().mean())
    show(history)
    print(f"layers        {deep:9} -> {layers(small):9}")
    print(f"parameters    {before.params:9,} -> {after.params:9,}")
    print(f"multiply-adds {before.macs:9,} -> {after.macs:9,}, {after.macs / before.macs:.0%} for a budget of {BUDGET}")
    print(f"test accuracy {accuracy:.2%}, {len(history.removals)} of 9 branches removed while training")

    assert torch.allclose(bnn.net(x), small(x), atol=1e-4), "removal must not change an output"
    assert after.macs <= BUDGET.fraction * before.macs
    assert layers(small) < deep
    assert accuracy > 0.9
    assert history.rows[-1].gates_converged >= 0.8


def layers(net: nn.Module) -> int:
    """How many convolutions and linear maps a network has, those of by-passes included."""
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules())


def show(history: History) -> None:
    """The path of the price, of the expected cost and of every θ, after every other epoch."""
    rows = history.rows[1::2]
    print(f"{'phase':14}", *(f"{row.phase:>9}" for row in rows))
    print(f"{'price ν':14}", *(f"{row.nu:9.3f}" for row in rows))
    print(f"{'expected cost':14}", *(f"{row.expected:9.1%}" for row in rows))
    for name, path in history.thetas.items():
        print(f"{name:14}", *(f"{float(theta):9.2f}" for theta in path[2::2]), "stays" if path[-1] > 0.5 else "goes")


if __name__ == "__main__":
    main()
