"""How much of the evidence a posterior has found: its lower bound, which compares networks of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.data.inputs import Inputs, each
from bayesprune.errors import DataError
from bayesprune.infer import BayesianNet
from bayesprune.infer.objective import total
from bayesprune.infer.targets import Targets, each_target, losses
from bayesprune.layers import eval_mode
from bayesprune.training.batches import Loader, dtype_of, read_batch


class EvidenceBound(NamedTuple):
    """A lower bound of log p(y), by draws from the posterior.

    Attributes:
        nats: The bound, for the whole data set.
        error: Standard error of its estimate.

    Examples:
        >>> EvidenceBound(-120.0, 0.5).nats
        -120.0
    """

    nats: float
    error: float


@torch.no_grad()
@checked_arguments
def evidence_bound(
    net: BayesianNet, loader: Loader, num_samples: int = 64, *, temperature: float = 1.0
) -> EvidenceBound:
    """The evidence lower bound of a posterior, in eval mode.

    It is −N times the objective (see `infer.objective`): the mean log-likelihood under drawn gates and weights, less
    the divergence of the posterior from the prior. What cold training corrects the noise by
    (`Likelihood.set_fitted_parameters`) is no density, and not in it. Of two posteriors of one data set under one
    prior, the one with the higher bound is nearer to what the data say. Units that were removed are no unknowns of this
    bound; as units with θ = 0 they would cost −log(1 − λ) each, which `fit_best` takes off. Up to a constant, with
    weights that are points and with the flattening prior.

    Args:
        net: The network with its posterior.
        loader: Batches of the training data, such as `fit` takes.
        num_samples: Draws of gates and weights, at least two, anew for every batch.
        temperature: How much the divergence of Normal weights counts: 1 for the evidence, whatever temperature the
            network was trained at; at another one it is no bound of the evidence.

    Raises:
        ConfigError: for fewer than two samples, and for a temperature that is not positive and finite.
        DataError: if the loader is empty, or gives batches that the network does not take.
    """
    num_samples = whole("evidence_bound: num_samples", num_samples, 2)
    temperature = real("evidence_bound: temperature", temperature, 0)
    found, count = torch.zeros(num_samples, 2, dtype=torch.float64), 0
    net.refresh()
    with eval_mode(net):
        for x, y in batches_of(net, loader, "evidence_bound"):
            sums = []
            for _ in range(num_samples):
                with net.drawn_weights():
                    outputs = net(x, net.sample_gates(x), skip=True)
                sums.append(losses(net.likelihood, outputs, y).sum())
            drawn = torch.stack(sums).double().cpu()
            found[:, 0] += drawn
            found[:, 1] += (drawn - drawn.mean()).square()
            count += len(y)
    if count == 0:
        raise DataError("evidence_bound: the loader gave no batch; expected at least one example")
    scale = net.num_data / count
    error = scale * math.sqrt(float(found[:, 1].sum()) / (num_samples - 1) / num_samples)
    weights = float(net.weights_posterior.divergence(net.by_gate(net.theta)))
    rest = float(total(net)) * net.num_data - (1 - temperature) * weights - float(net.likelihood.correction())
    return EvidenceBound(-float(found[:, 0].mean()) * scale - rest, error)


@torch.no_grad()
def cost_of_absence(net: BayesianNet) -> float:
    """What the gates of a network would cost if all of them were off: Σ −log(1 − λ_s) under a fixed prior, nats."""
    return float(net.prior().divergence(torch.zeros_like(net.theta)).sum())


def bound_of_all(net: BayesianNet, loader: Loader, temperature: float, absence: float) -> EvidenceBound:
    """The evidence bound of a network that may have lost units, which count as units with θ = 0.

    Args:
        net: The network as it is.
        loader: As for `evidence_bound`.
        temperature: As there.
        absence: `cost_of_absence` of the network with all of its units.
    """
    found = evidence_bound(net, loader, temperature=temperature)
    return found._replace(nats=found.nats - (absence - cost_of_absence(net)))


def batches_of(net: BayesianNet, loader: Loader, where: str) -> Iterator[tuple[Inputs, Targets]]:
    """Inputs and targets of all batches, where the network is.

    Args:
        net: The network.
        loader: Batches, such as `fit` takes.
        where: Who asks, for messages.
    """
    device, dtype = net.theta.device, dtype_of(net)
    for number, batch in enumerate(loader):
        x, y = read_batch(batch, dtype, f"{where}: batch {number}")
        yield each(x, lambda t: t.to(device)), each_target(y, lambda t: t.to(device))
