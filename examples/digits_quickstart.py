"""Train a network on handwritten digits, let it prune itself, and keep the small one.

    python examples/digits_quickstart.py

The network starts far too wide. Every unit has a gate; `fit` drives each gate's probability θ to 0 or 1 and removes the
units that the data do not pay for while training goes on. `compact` then gives a plain PyTorch network with the same
outputs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers


def main() -> None:
    """Train, prune, compact, save, load."""
    torch.manual_seed(0)
    digits = bp.data.load("digits")
    train, test = bp.data.loaders(digits, batch_size=64, seed=0)
    net = nn.Sequential(
        nn.Flatten(),
        layers.Gate(64),  # gates on the inputs themselves
        layers.Linear(64, 200, gate="unit"),
        nn.ReLU(),
        layers.Linear(200, 100, gate="unit"),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    prior = bp.distributions.FlatteningPrior(log_gamma=3.0)  # nats for the whole data set: more prunes more
    bnn = bp.BayesianNet(net, likelihood="categorical", num_data=len(digits.train), prior=prior)
    x, y = digits.test[:]
    before, gates = bp.cost(bnn, example_input=x), bnn.num_gates

    history = bp.fit(bnn, train, epochs=60, val_loader=test)

    small = bp.compact(bnn.eval())
    after = bp.cost(small, example_input=x)
    accuracy = float((small(x).argmax(1) == y).float().mean())
    left = sum(int((theta > 0.5).sum()) for theta in bnn.gate_probs().values())
    print(f"gates         {gates:7,} -> {left:7,}   ({history.rows[-1].gates_converged:.1%} of them converged)")
    print(f"parameters    {before.params:7,} -> {after.params:7,}")
    print(f"multiply-adds {before.macs:7,} -> {after.macs:7,}")
    print(f"test accuracy {accuracy:.2%}")

    first = history.removals[0]
    print(
        f"first to go: {first.gate!r}[{first.index}], step {first.step}, θ = {first.theta}, "
        f"net cost {first.net_cost:+.1e} nats"
    )

    assert torch.allclose(bnn.net(x), small(x), atol=1e-5), "removal must not change an output"
    assert accuracy > 0.95 and left < gates / 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        bp.save(small, path)
        assert torch.equal(bp.load(path)(x), small(x)), "a loaded network must give the same outputs"


if __name__ == "__main__":
    main()
