"""How the estimators train, leaving no trace in the session: random state and threads are as before."""

from __future__ import annotations

import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.arguments import checked_arguments
from bayesprune.data.batches import ShuffledBatches
from bayesprune.data.spans import cut_epoch
from bayesprune.distributions import FixedInclusion
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.layers import gates_of
from bayesprune.optim.rates import arrival, reach
from bayesprune.sklearn.network import INPUTS
from bayesprune.training import BestFit, Settings, fit, fit_best

BATCHES = 20
"""How many batches an epoch has, if their size is to be chosen and stays within its bounds."""
SMALLEST, LARGEST = 16, 512
"""Bounds of a batch size that is chosen."""
PASSES, STEPS = 150, 2000
"""How many epochs there are at least where their number is to be chosen, and steps in all of them."""
SLAB_SCALE = 1.0
"""Standard deviation of the prior of all weights, for standardised inputs and targets, where it is not learned."""
FEW_ROWS, MANY_COLUMNS = 5, 20
"""Rows are few where there are less than so many for each column. Then an effect that the data can tell from none is
not small beside one that a slab of scale 1 makes dear, so the scale is learned, if columns are enough to learn it."""
PHASES: dict[str, float] = {"slab_by": 0.5, "checks_per_epoch": 1}
"""Fields of the schedule: with few rows the weights must have learnt something before their divergence counts in full,
and an epoch is short."""

LITTLE_NOISE = 0.2
"""Noise that every second start begins with, relative to what a likelihood begins with otherwise: the spread of the
targets."""

_RANDOM_STATE = threading.RLock()


@checked_arguments
@dataclass(frozen=True)
class Training:
    """How to train a gated network on a table.

    Attributes:
        posterior: Of the weights, ``"normal"`` or ``"point"``.
        temperature: How much the divergence of Normal weights from their prior counts.
        prior_inclusion: λ of an input, in (0, 1); a hidden unit has ½.
        epochs: Length of the run.
        batch_size: Rows a batch.
        learning_rate: Peak learning rate of the weights.
        restarts: How many starts are made, of which the one with the highest evidence bound is taken.
    """

    posterior: str
    temperature: float
    prior_inclusion: float
    epochs: int
    batch_size: int
    learning_rate: float
    restarts: int = 1

    def train(
        self, make: Callable[[], nn.Module], likelihood: Likelihood, x: Tensor, y: Tensor, weights: Tensor
    ) -> BestFit:
        """Train on all rows, random numbers from torch's generator as it is.

        At temperature 1 hidden units are left out on trial, see `training.fewer`.

        Args:
            make: Makes the network, with a gate ``inputs`` and weights of its own each time.
            likelihood: What its outputs say about the targets.
            x: Inputs, shape ``(n, d)``.
            y: Targets, as ``likelihood`` takes them.
            weights: Weights of the rows, shape ``(n,)``, of mean 1.
        """
        normal = self.posterior == "normal"
        nets = [self._model(make(), copy.deepcopy(likelihood), x) for _ in range(self.restarts)]
        batches = ShuffledBatches(len(x), cut_epoch(len(x), self.batch_size), int(torch.randint(2**31, ())))
        data = TensorDataset(x, y, weights) if bool((weights != 1).any()) else TensorDataset(x, y)
        loader = DataLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())
        temperature = self.temperature if normal else 1.0
        phases = self._phases(self.epochs * len(batches)) if normal else PHASES
        settings = Settings(lr=self.learning_rate, temperature=temperature, schedule=phases)
        fewer = normal and temperature >= 1 and len(nets[0].gate_names) > 1
        for net in nets[1::2]:
            self._begin_with_little_noise(net, loader, settings, len(batches))
        # Under a fixed prior gates end between 0 and 1: they stay, but for units, and predictions average over them.
        return fit_best(nets, loader, epochs=self.epochs, settings=settings, fewer=fewer)

    def _begin_with_little_noise(self, net: BayesianNet, loader: DataLoader, settings: Settings, steps: int) -> None:
        """Fit a start with noise that stays small, where the scale of the noise is learned: for half of a run, or all.

        Noise that is learned from the first step explains what the weights have not learnt yet, and a column that acts
        by a curve alone may then have no evidence before its weights follow it.

        Args:
            net: The start.
            loader: Batches of all rows.
            settings: How to train.
            steps: How many batches an epoch has.
        """
        scale = getattr(net.likelihood, "log_scale", None)
        if scale is None:
            return
        scale.detach().add_(math.log(LITTLE_NOISE))
        scale.requires_grad_(False)
        half = self.epochs // 2
        arrives = arrival(SLAB_SCALE, self.learning_rate, half * steps) is not None
        epochs = half if half and arrives else self.epochs
        fit(net, loader, epochs=epochs, prune=False, settings=settings, progress=False)
        scale.requires_grad_(True)

    def _phases(self, steps: int) -> dict[str, float]:
        """Fields of the schedule; in a run so short that weights cannot arrive gates rest, and a warning says so.

        Args:
            steps: Length of the run.
        """
        if arrival(SLAB_SCALE, self.learning_rate, steps) is not None:
            return PHASES
        enough = 1.5 * SLAB_SCALE / reach(1.0, steps)
        epochs = math.ceil(self.epochs * enough / self.learning_rate)
        warnings.warn(
            f"fit: epochs={self.epochs} ({steps} steps) at learning_rate={self.learning_rate:g} are too few for "
            "weights to arrive where the data want them, so inclusion probabilities stay where they began; give "
            f"epochs={epochs} or more, or learning_rate={enough:.1g} or more",
            ConvergenceWarning,
            stacklevel=5,
        )
        return PHASES | {"sample_from": 1.0, "settle_from": 1.0}

    def _model(self, net: nn.Module, likelihood: Likelihood, x: Tensor) -> BayesianNet:
        """The model of a start.

        Args:
            net: Its network.
            likelihood: What its outputs say about the targets.
            x: Inputs, shape ``(n, d)``.
        """
        normal, varying = self.posterior == "normal", int((x != x[:1]).any(0).sum())
        return BayesianNet(
            net,
            likelihood,
            num_data=len(x),
            prior=self.prior(net, len(x)),
            weight_precision=SLAB_SCALE**-2,
            weights=self.posterior,
            slab_scale=SLAB_SCALE if normal and not learns_slab(len(x), varying) else None,
            example_input=x[:1],
        )

    def prior(self, net: nn.Module, rows: int) -> FixedInclusion:
        """λ of every gate.

        Point weights have no divergence that would charge a structure for what it learns; it is charged ½ log n
        instead, the price of one parameter in Schwarz's criterion (1978).

        Args:
            net: The gated network.
            rows: Number of examples n.
        """
        price = 0.0 if self.posterior == "normal" else math.log(rows) / 2
        odds = float(FixedInclusion(self.prior_inclusion).log_gamma)
        each = [
            torch.full((gate.size,), price + (odds if name.partition(".")[0] == INPUTS else 0.0))
            for name, gate in gates_of(net).items()
        ]
        return FixedInclusion(log_gamma=torch.cat(each))


def learns_slab(rows: int, columns: int) -> bool:
    """Whether the standard deviation of the weights' prior is learned, by layer, instead of being 1.

    Args:
        rows: Number of examples.
        columns: Number of inputs that vary.
    """
    return columns >= MANY_COLUMNS and rows < FEW_ROWS * columns


def chosen_batch_size(rows: int) -> int:
    """A twentieth of the rows, between 16 and 512."""
    return min(LARGEST, max(SMALLEST, -(-rows // BATCHES)))


def chosen_epochs(rows: int, batch_size: int) -> int:
    """150, or as many more as give a small table 2,000 steps: weights take steps to arrive, however few the rows.

    Args:
        rows: Number of examples.
        batch_size: Rows a batch.
    """
    return max(PASSES, -(-STEPS // -(-rows // batch_size)))


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Within the context torch's random numbers on the host are those of ``seed``; afterwards they go on as before.

    They are those of all threads, so one thread at a time is let in.
    """
    with _RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed accelerators
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context one thread computes: the networks are so small that a second one costs more than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
