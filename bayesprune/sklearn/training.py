"""How the estimators train, leaving no trace in the session: random state and threads are as before."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.arguments import checked_arguments
from bayesprune.data.batches import ShuffledBatches
from bayesprune.data.spans import cut_epoch
from bayesprune.distributions import FixedInclusion
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.layers import gates_of
from bayesprune.sklearn.network import INPUTS
from bayesprune.training import History, Settings, fit

BATCHES = 20
"""How many batches an epoch has, if their size is to be chosen and stays within its bounds."""
SMALLEST, LARGEST = 16, 512
"""Bounds of a batch size that is chosen."""
SLAB_SCALE = 1.0
"""Standard deviation of the prior of all weights, for standardised inputs and targets."""
PHASES = {"slab_by": 0.5, "checks_per_epoch": 1}
"""Fields of the schedule: with few rows the weights must have learnt something before their divergence counts in full,
and an epoch is short."""

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
    """

    posterior: str
    temperature: float
    prior_inclusion: float
    epochs: int
    batch_size: int
    learning_rate: float

    def train(
        self, net: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor, weights: Tensor
    ) -> tuple[BayesianNet, History]:
        """Train on all rows, random numbers from torch's generator as it is.

        Args:
            net: The network, with a gate ``inputs``.
            likelihood: What its outputs say about the targets.
            x: Inputs, shape ``(n, d)``.
            y: Targets, as ``likelihood`` takes them.
            weights: Weights of the rows, shape ``(n,)``, of mean 1.
        """
        normal = self.posterior == "normal"
        bnn = BayesianNet(
            net,
            likelihood,
            num_data=len(x),
            prior=self.prior(net, len(x)),
            weight_precision=SLAB_SCALE**-2,
            weights=self.posterior,
            slab_scale=SLAB_SCALE if normal else None,
            example_input=x[:1],
        )
        batches = ShuffledBatches(len(x), cut_epoch(len(x), self.batch_size), int(torch.randint(2**31, ())))
        data = TensorDataset(x, y, weights) if bool((weights != 1).any()) else TensorDataset(x, y)
        loader = DataLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())
        temperature = self.temperature if normal else 1.0
        settings = Settings(lr=self.learning_rate, temperature=temperature, schedule=PHASES)
        # Under a fixed prior gates end between 0 and 1: all of them stay, and predictions are averages over them.
        return bnn, fit(bnn, loader, epochs=self.epochs, prune=False, settings=settings, progress=False)

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


def chosen_batch_size(rows: int) -> int:
    """A twentieth of the rows, between 16 and 512."""
    return min(LARGEST, max(SMALLEST, -(-rows // BATCHES)))


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
