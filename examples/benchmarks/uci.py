"""Test log-likelihood, error and coverage of 50-unit networks with Gaussian slabs on UCI sets, 20 splits each.

    python examples/benchmarks/uci.py --data-dir DIR
    python examples/benchmarks/uci.py concrete --components 4 --data-dir DIR
    python examples/benchmarks/uci.py --ensemble 5 --epochs 40 --data-dir DIR

DIR holds a folder for each set (``concrete``, ``energy``, ``yacht``, ``wine-quality-red``) with ``data.txt`` and the
index files of the 20 splits that are in use in the literature on Bayesian deep learning. Inputs and targets are
standardised by the training part; log-likelihoods and errors are in the targets' own units. With several components a
prediction is the equal mixture of those of as many posteriors, trained from different starts. ``--ensemble`` takes
plain networks of the same width instead, whose noise depends on the inputs (deep ensembles, Lakshminarayanan et al.
2017).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from report import machine, table
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.infer import Heteroscedastic, LearnedGaussian, RealPrediction
from bayesprune.metrics import coverage, regression_scores
from bayesprune.training import Settings

TEMPERATURES = {"concrete": 0.1, "energy": 0.1, "yacht": 0.1, "wine-quality-red": 0.5}
REFERENCES = {
    "concrete": (4.83, -2.94),
    "energy": (0.54, -1.21),
    "yacht": (0.67, -1.25),
    "wine-quality-red": (0.62, -0.93),
}
"""RMSE and log-likelihood of MC dropout on the same splits."""
HIDDEN, BATCH, EPOCHS, DRAWS = 50, 64, 400, 200
SCHEDULE = {"slab_by": 0.5, "sample_from": 0.6, "settle_from": 0.6, "fine_tune_from": 0.8, "checks_per_epoch": 1}


@dataclass(frozen=True)
class Split:
    """One split; targets in units of ``scale``, the standard deviation of the training ones."""

    x: Tensor
    y: Tensor
    new_x: Tensor
    new_y: Tensor
    scale: float


def read_split(folder: Path, number: int) -> Split:
    """Split ``number`` of the set in ``folder``, standardised."""
    rows = np.loadtxt(folder / "data.txt")
    features = np.loadtxt(folder / "index_features.txt").astype(int)
    target = int(np.loadtxt(folder / "index_target.txt"))
    train, test = (np.loadtxt(folder / f"index_{part}_{number}.txt").astype(int) for part in ("train", "test"))
    x, y = rows[:, features], rows[:, [target]]
    spread = x[train].std(0)
    x = (x - x[train].mean(0)) / np.where(spread == 0, 1, spread)
    scale = y[train].std()
    y = (y - y[train].mean()) / scale
    parts = (torch.tensor(part, dtype=torch.float32) for part in (x[train], y[train], x[test], y[test]))
    return Split(*parts, float(scale))


class Batches:
    """Shuffled batches of nearly equal size."""

    def __init__(self, x: Tensor, y: Tensor, seed: int):
        self.x, self.y, self.seed, self.epoch = x, y, seed, 0
        self.dataset = TensorDataset(x, y)

    def __len__(self) -> int:
        return max(1, len(self.x) // BATCH)

    def set_epoch(self, epoch: int) -> None:
        """The order is that of seed and epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(100_003 * self.seed + self.epoch)
        for chosen in torch.randperm(len(self.x), generator=generator).tensor_split(len(self)):
            yield self.x[chosen], self.y[chosen]


def train(split: Split, seed: int, temperature: float, epochs: int) -> bp.BayesianNet:
    """A network with gates on inputs and units, and the noise scale learned with the rest."""
    torch.manual_seed(seed)
    inputs = split.x.shape[1]
    net = nn.Sequential(
        layers.Gate(inputs, theta=1.0),
        layers.Linear(inputs, HIDDEN, gate="unit", theta=1.0),
        nn.ReLU(),
        nn.Linear(HIDDEN, 1),
    )
    prior = bp.distributions.FlatteningPrior(1.0)
    bnn = bp.BayesianNet(net, LearnedGaussian(0.5), num_data=len(split.x), prior=prior, weights="normal")
    settings = Settings(lr=1e-2, temperature=temperature, schedule=SCHEDULE)
    bp.fit(bnn, Batches(split.x, split.y, seed), epochs=epochs, settings=settings)
    return bnn


def ensemble(split: Split, seed: int, members: int, epochs: int) -> RealPrediction:
    """The equal mixture of plain networks that give mean and log scale, trained by Adam under half a cosine."""
    likelihood, found = Heteroscedastic(), []
    for member in range(members):
        torch.manual_seed(seed + member)
        net = nn.Sequential(nn.Linear(split.x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
        batches = Batches(split.x, split.y, seed + member)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            for x, y in batches:
                optimizer.zero_grad()
                likelihood.nll(net(x), y).mean().backward()
                optimizer.step()
                rate.step()
        found.append(net(split.new_x).detach())
    prediction = likelihood.summarize(torch.stack(found))
    assert isinstance(prediction, RealPrediction)
    return prediction


def mixture(predictions: list[RealPrediction]) -> RealPrediction:
    """The equal mixture of predictions."""
    samples = torch.cat([p.samples for p in predictions])
    noise = torch.cat([p.noise_scale.detach().expand(p.samples.shape) for p in predictions])
    return RealPrediction(samples.mean(0), samples, noise)


def measure(split: Split, prediction: RealPrediction) -> list[float]:
    """RMSE, log-likelihood and coverage of 95 % intervals, in the targets' own units."""
    low, high = prediction.interval(0.95)
    y = split.new_y[:, 0]
    scores = regression_scores(prediction.log_prob(split.new_y), prediction.mean[:, 0], y)
    return [
        scores.rmse * split.scale,
        scores.log_likelihood - float(np.log(split.scale)),
        coverage(low[:, 0], high[:, 0], y),
    ]


def main() -> None:
    """Run what the command line asks for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(TEMPERATURES))
    parser.add_argument("--data-dir", type=Path, default=Path("data/uci"))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--components", type=int, default=1)
    parser.add_argument("--ensemble", type=int, default=0, metavar="N", help="N plain networks instead")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--temperature", type=float, help="instead of the set's own")
    options = parser.parse_args()
    print(machine(), flush=True)
    rows = []
    for name in options.sets:
        temperature = options.temperature or TEMPERATURES[name]
        found, left, began = [], [], time.process_time()
        for number in range(options.splits):
            split = read_split(options.data_dir / name, number)
            if options.ensemble:
                prediction = ensemble(split, 1000 * number, options.ensemble, options.epochs)
                left.append([split.x.shape[1], HIDDEN])
            else:
                nets = [train(split, 1000 * number + c, temperature, options.epochs) for c in range(options.components)]
                prediction = mixture([net.predict(split.new_x, DRAWS // options.components) for net in nets])
                left += [[int((theta > 0.5).sum()) for theta in net.gate_probs().values()] for net in nets]
            found.append(measure(split, prediction))
            print(name, number, [round(value, 3) for value in found[-1]], left[-1], flush=True)
        seconds = (time.process_time() - began) / options.splits
        (rmse, likelihood, inside), error = np.mean(found, 0), np.std(found, 0) / len(found) ** 0.5
        inputs, units = np.mean(left, 0)
        reference = REFERENCES[name]
        row = [name, "" if options.ensemble else f"{temperature:g}", f"{rmse:.2f} ± {error[0]:.2f} ({reference[0]})"]
        row += [f"{likelihood:.2f} ± {error[1]:.2f} ({reference[1]})", f"{100 * inside:.1f} %"]
        row += [f"{inputs:.1f} of {split.x.shape[1]}", f"{units:.1f} of {HIDDEN}"]
        rows.append([*row, f"{seconds:.1f}"])
    header = ["set", "temperature", "RMSE (MC dropout)", "log-likelihood (MC dropout)", "95 % intervals hold"]
    print(table([*header, "inputs left", "units left", "CPU seconds a split"], rows))


if __name__ == "__main__":
    main()
