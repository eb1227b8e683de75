"""Ask which inputs a target depends on: gates on the inputs of a table.

    python examples/which_inputs_matter.py

Two problems. First, real measurements: ten properties of 442 patients and how their diabetes went on a year later
(scikit-learn's copy), a small network with a gate on every input. Second, made-up data of which the answer is known: 20
inputs, 3 of them matter. θ is the posterior probability that an input is used.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.infer import Gaussian


def inclusion(x: Tensor, y: Tensor, *, hidden: int, log_gamma: float, noise: float) -> Tensor:
    """Posterior inclusion probability of every input.

    Args:
        x: Inputs, shape ``(N, D)``, standardised.
        y: Targets, shape ``(N, 1)``, standardised.
        hidden: Units of the hidden layer; 0 for a linear model.
        log_gamma: Price of an input, nats for the whole data set.
        noise: Standard deviation of the targets around the prediction.

    Returns:
        θ, shape ``(D,)``.
    """
    inputs = x.shape[1]
    body = [nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 1)] if hidden else [nn.Linear(inputs, 1)]
    net = nn.Sequential(layers.Gate(inputs, theta=0.5), *body)
    prior = bp.distributions.FlatteningPrior(log_gamma)
    bnn = bp.BayesianNet(net, likelihood=Gaussian(noise), num_data=len(x), prior=prior)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    # A small table makes few steps an epoch: let the weights find their signs before gates are judged by them.
    settings = bp.training.Settings(lr=1e-2, schedule={"sample_from": 0.2, "settle_from": 0.4, "fine_tune_from": 0.6})
    bp.fit(bnn, loader, epochs=80, prune=False, settings=settings)
    return bnn.gate_probs()["0"]


def standardised(values: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1."""
    return (values - values.mean(0)) / values.std(0)


def diabetes() -> None:
    """Real measurements, a non-linear model."""
    table = load_diabetes(scaled=False)
    x = standardised(torch.tensor(table.data, dtype=torch.float32))
    y = standardised(torch.tensor(table.target, dtype=torch.float32))[:, None]
    theta = inclusion(x, y, hidden=16, log_gamma=3.0, noise=0.7)
    print("diabetes: posterior probability that an input is used")
    for name, probability in sorted(zip(table.feature_names, theta.tolist(), strict=True), key=lambda pair: -pair[1]):
        print(f"  {name:4} {probability:.3f} {'#' * round(20 * probability)}")
    used = {name for name, probability in zip(table.feature_names, theta.tolist(), strict=True) if probability > 0.5}
    assert {"bmi", "s5"} <= used, "body mass and blood lipids are what every analysis of these data finds"
    assert len(used) < 10


def known_answer() -> None:
    """A linear model of made-up data, where inputs 2, 7 and 11 matter."""
    x = torch.randn(500, 20)
    y = (1.0 * x[:, 2] - 0.7 * x[:, 7] + 0.4 * x[:, 11])[:, None] + 0.5 * torch.randn(500, 1)
    theta = inclusion(x, y, hidden=0, log_gamma=5.0, noise=0.5)
    used = (theta > 0.5).nonzero()[:, 0].tolist()
    others = float(theta[theta < 0.5].max())
    print(f"made-up data: inputs {used} are used (the truth: [2, 7, 11]); θ of all others is at most {others:.3f}")
    assert used == [2, 7, 11]


def main() -> None:
    """Both problems."""
    torch.manual_seed(0)
    diabetes()
    known_answer()


if __name__ == "__main__":
    main()
