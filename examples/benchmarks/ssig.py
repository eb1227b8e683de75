"""Gaussian slabs with node selection: size, calibration and unknown inputs, against the dense network.

    python examples/benchmarks/ssig.py mlp --data-dir DIR --outside PATH
    python examples/benchmarks/ssig.py lenet5 --data-dir DIR --outside PATH
    python examples/benchmarks/ssig.py digits

The networks are those of SS-IG (Jantre, Bhattacharya & Maiti 2021, arXiv 2108.11000); ``mlp-ssig`` has its prior, slab,
activation and estimator, too, and names that end in ``-elbo`` train by the evidence lower bound, at temperature 1. PATH
is an image folder (PATH/test/<class>/...) whose test images, in grey, are inputs from outside. The dense network has
the same layers, point weights and cross-entropy alone, and as many epochs. Pixels are divided by their root mean square
and not centred, for both: a background of 0 passes no noise on.

Of the Bayesian network accuracy, calibration and uncertainty are those of the mean of 32 networks drawn from its
posterior; accuracy is also given for the compacted network at the posterior means. ``--validate`` leaves the last sixth
of the training images out and scores on them: that is how the settings were chosen.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from plain import train_plain
from report import machine
from ssig_cases import CASES, Case, load, outsiders, prior
from ssig_tables import Outcome, calibration_table, outside_table, size_table
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import metrics
from bayesprune.data import Splits
from bayesprune.infer import ClassPrediction
from bayesprune.training import Settings

DRAWS = 32


def train_dense(case: Case, splits: Splits, seed: int, epochs: int) -> nn.Module:
    """The network without gates, trained by Adam on the cross-entropy, with the learning rates of `fit`."""
    torch.manual_seed(seed)
    net = bp.compact(case.build(splits.input_shape).train())
    loader, _ = bp.data.loaders(splits, case.batch, seed)
    return train_plain(net, loader, epochs, torch.optim.Adam(net.parameters(), lr=case.dense_lr, fused=True))


def train_bayesian(case: Case, splits: Splits, seed: int, epochs: int) -> tuple[bp.BayesianNet, float]:
    """The network with Gaussian slabs, and which share of its gates has converged."""
    torch.manual_seed(seed)
    net = case.build(splits.input_shape)
    loader, _ = bp.data.loaders(splits, case.batch, seed)
    bnn = bp.BayesianNet(
        net, num_data=len(splits.train), prior=prior(case, splits), weights="normal", slab_scale=case.slab_scale
    )
    history = bp.fit(bnn, loader, epochs=epochs, settings=Settings(temperature=case.temperature, **case.settings))
    return bnn.eval(), history.rows[-1].gates_converged


def predict(posterior: nn.Module, x: Tensor) -> ClassPrediction:
    """What the same networks, drawn from the posterior, predict at every call."""
    assert isinstance(posterior, bp.BayesianNet)
    torch.manual_seed(0)
    prediction = posterior.predict(x, DRAWS)
    assert isinstance(prediction, ClassPrediction)
    return prediction


@torch.no_grad()
def run(case: Case, splits: Splits, outside: dict[str, Tensor], seed: int, epochs: int) -> Outcome:
    """Train both networks and measure them."""
    began = time.perf_counter()
    with torch.enable_grad():
        dense = train_dense(case, splits, seed, epochs)
    middle = time.perf_counter()
    with torch.enable_grad():
        bnn, converged = train_bayesian(case, splits, seed, epochs)
    end = time.perf_counter()

    x, y = splits.test[:]
    small, posterior = bp.compact(bnn), bp.compact(bnn, posterior=True)
    inside = predict(posterior, x)
    of_dense = dense(x).double().softmax(1)
    figures = {
        "posterior": metrics.calibration(inside.mean.double(), y),
        "at the means": metrics.calibration(small(x).double().softmax(1), y),
        "dense": metrics.calibration(of_dense, y),
    }
    found = {}
    for name, images in outside.items():
        theirs = predict(posterior, images)
        found[name, "predictive entropy"] = metrics.auroc(inside.entropy, theirs.entropy)
        found[name, "mutual information"] = metrics.auroc(inside.mutual_information, theirs.mutual_information)
        entropy = metrics.entropy(dense(images).double().softmax(1))
        found[name, "dense: entropy"] = metrics.auroc(metrics.entropy(of_dense), entropy)
    whole, left = bp.cost(dense, x), bp.cost(small, x)
    assert whole.macs is not None and left.macs is not None
    size = [100 * figures[name].accuracy for name in ("posterior", "at the means", "dense")]
    size += [100 * left.macs / whole.macs, 100 * left.params / whole.params, 100 * converged]
    gates = "-".join(str(int((theta > 0.5).sum())) for theta in bnn.gate_probs().values())
    return Outcome([*size, end - middle, middle - began], gates, figures, found)


def main() -> None:
    """Run what the command line asks for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=sorted(CASES))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--outside", help="image folder with inputs from outside")
    parser.add_argument("--epochs", type=int, help="instead of the case's")
    parser.add_argument("--temperature", type=float, help="instead of the case's")
    parser.add_argument("--limit", type=int, help="number of training images, instead of all")
    parser.add_argument("--validate", action="store_true", help="score on training images that are left out")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    case = CASES[options.net]
    if options.temperature is not None:
        case = replace(case, temperature=options.temperature)
    epochs = options.epochs or case.epochs
    splits = load(case, options.data_dir, options.limit, options.validate)
    outside = outsiders(splits, options.outside)
    print(machine(), flush=True)
    scored = "held-out training" if options.validate else "test"
    print(f"{options.net}, {epochs} epochs, temperature {case.temperature}, {len(splits.test)} {scored} images")
    outcomes = {}
    for seed in options.seeds:
        outcomes[str(seed)] = run(case, splits, outside, seed, epochs)
        print(f"seed {seed}:", [round(value, 2) for value in outcomes[str(seed)].size], flush=True)
    print("\n" + size_table(outcomes))
    print("\n" + calibration_table(outcomes))
    print("\nAUROC of telling inputs from outside from test images, mean over seeds (lowest)\n")
    print(outside_table(outcomes))


if __name__ == "__main__":
    main()
