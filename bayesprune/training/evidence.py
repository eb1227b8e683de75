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
    the divergence of the posterior from the prior. Of two posteriors of one data set under one prior of the unknowns
    that both have, the one with the higher bound is nearer to what the data say; a network without some units is one
    whose units have θ = 0. Up to a constant, with weights that are points and with the flattening prior.

    Args:
        net: The network with its posterior.
        loader: Batches of the training data, such as `fit` takes.
        num_samples: Draws of gates and weights, at least two, anew for every batch.
        temperature: How much the divergence of Normal weights counts: 1 for the evidence, whatever temperature the
            network was trained at; at another one it is the objective of that training.

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
    rest = float(total(net)) * net.num_data - (1 - temperature) * weights
    return EvidenceBound(-float(found[:, 0].mean()) * scale - rest, error)


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
