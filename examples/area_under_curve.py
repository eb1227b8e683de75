"""Few of one class, many of the other: the area under the ROC curve as the likelihood that is minimised.

    python examples/area_under_curve.py

The area is the share of pairs, one example of each class, in the right order. With the square (1 − h₊ + h₋)² in place
of a step it is the value of a game over three numbers a, b and α, whose terms are of single examples (Ying, Wen & Lyu
2016; Guo et al. 2020 for several workers):

    F = (1 − p)(h − a)² [y = 1] + p (h − b)² [y = 0] + 2 (1 + α)(p h [y = 0] − (1 − p) h [y = 1]) − p (1 − p) α²

p is the share of the class 1. Weights, a and b go down in F and α goes up, by a gradient whose sign is turned. At the
best a, b and α the mean of F is p (1 − p)(E (1 − h₊ + h₋)² − 1), which the example checks; then a network with gates on
its inputs learns by it from 1 positive in 25, and prunes itself.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.infer import Likelihood


class AreaUnderCurve(Likelihood):
    """The terms of F; outputs are scores, shape ``(B, 1)``, and targets are 0 or 1 in that shape.

    Args:
        share: p, the share of the class 1 in the training data.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.a, self.b, self.alpha = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """F of each example; its gradient in α has the other sign.

        Args:
            outputs: The scores.
            y: The classes.
        """
        alpha = 2 * self.alpha.detach() - self.alpha
        return self.terms(outputs, y, alpha).flatten(1).sum(1)

    def terms(self, h: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        """F of each example.

        Args:
            h: The scores.
            y: The classes.
            alpha: α.
        """
        p, positive = self.share, y.to(h)
        squares = (1 - p) * (h - self.a).square() * positive + p * (h - self.b).square() * (1 - positive)
        gap = p * h * (1 - positive) - (1 - p) * h * positive
        return squares + 2 * (1 + alpha) * gap - p * (1 - p) * alpha.square()

    def mean(self, outputs: Tensor) -> Tensor:
        """The scores themselves."""
        return outputs

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """There is none: F is no logarithm of a probability, and `fit` needs none."""
        raise NotImplementedError("the area under the curve is no probability of targets")


def check_identity() -> float:
    """How far E F at the best a, b, α lies from p (1 − p)(E (1 − h₊ + h₋)² − 1)."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    y = (torch.rand(50, 1, generator=generator) < 0.3).double()
    game = AreaUnderCurve(float(y.mean())).double()
    positive, negative = h[y == 1], h[y == 0]
    with torch.no_grad():
        game.a.copy_(positive.mean())
        game.b.copy_(negative.mean())
        game.alpha.copy_(game.b - game.a)
        mean = float(game.terms(h, y, game.alpha).mean())
    p, pairs = game.share, float((1 - positive[:, None] + negative).square().mean())
    return abs(mean - p * (1 - p) * (pairs - 1))


def data(examples: int) -> tuple[Tensor, Tensor]:
    """Twelve inputs of which three matter, and one positive in about 25.

    Args:
        examples: How many.
    """
    x = torch.randn(examples, 12)
    score = x[:, :1] * x[:, 1:2] + x[:, 2:3] + 0.3 * torch.randn(examples, 1)
    return x, (score > 2.6).float()


def main() -> None:
    """The identity, then a network."""
    apart = check_identity()
    print(f"the game and its pairs differ by {apart:.1e}")
    assert apart < 1e-12
    torch.manual_seed(0)
    (x, y), (x_test, y_test) = data(4000), data(4000)
    gate = layers.Gate(12, theta=0.5)
    net = nn.Sequential(gate, layers.Linear(12, 32, gate="unit"), nn.ReLU(), nn.Linear(32, 1))
    prior = bp.distributions.FlatteningPrior(2.0)
    bnn = bp.BayesianNet(net, AreaUnderCurve(float(y.mean())), num_data=len(x), prior=prior)
    start = bp.cost(net).params
    loader = DataLoader(TensorDataset(x, y), batch_size=200, shuffle=True)
    bp.fit(bnn, loader, epochs=60, settings=bp.training.Settings(lr=1e-2))
    small = bp.compact(bnn.eval())
    with torch.no_grad():
        area = roc_auc_score(y_test, small(x_test))
    left = bp.cost(small).params
    print(f"{int(y.sum())} positives of {len(y)}; area {area:.3f} with {left} of {start} parameters")
    assert area > 0.9
    assert left < start / 2


if __name__ == "__main__":
    main()
