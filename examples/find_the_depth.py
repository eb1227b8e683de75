"""Let a deep residual network find out how many layers it needs.

    python examples/find_the_depth.py

Twelve branches y = h + ξ · relu(W h + b), one gate on each. A branch whose gate is drawn off is not computed, so
training becomes cheaper before anything is removed; a branch whose θ has reached 0 is removed and its by-pass, the
identity, stays.
"""

from __future__ import annotations

import torch

import bayesprune as bp


def main() -> None:
    """Train a residual MLP and print which branches are left."""
    torch.manual_seed(0)
    digits = bp.data.load("digits")
    train, test = bp.data.loaders(digits, batch_size=64, seed=0)
    net = bp.networks.resmlp(digits.input_shape, digits.num_classes, depth=12, width=48)
    prior = bp.distributions.FlatteningPrior(log_gamma=60.0)
    bnn = bp.BayesianNet(net, num_data=len(digits.train), prior=prior)

    history = bp.fit(bnn, train, epochs=60, val_loader=test)

    for name, path in history.thetas.items():
        route = " ".join(f"{float(theta):.2f}" for theta in path[::6])
        print(f"branch {name:>2}: θ {route}  {'stays' if float(path[-1]) > 0.5 else 'goes'}")
    left = sum(float(path[-1]) > 0.5 for path in history.thetas.values())
    computed = (
        sum(float(torch.stack(path[:-1]).mean()) for path in history.thetas.values()) / 12
    )  # a branch is drawn on with probability θ
    small = bp.compact(bnn.eval())
    x, y = digits.test[:]
    accuracy = float((small(x).argmax(1) == y).float().mean())
    print(
        f"{left} of 12 branches left, {accuracy:.2%} right, {computed:.0%} of the branch evaluations of dense training"
    )

    assert torch.allclose(bnn.net(x), small(x), atol=1e-5), "removal must not change an output"
    assert left <= 6
    assert accuracy > 0.94
    assert history.rows[-1].gates_converged >= 0.9


if __name__ == "__main__":
    main()
