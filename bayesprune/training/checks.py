"""Refuse data that a network cannot be trained on, saying which batch and why."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.data import EpochLoader
from bayesprune.data.inputs import Inputs, each
from bayesprune.errors import ConfigError, DataError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer import BayesianNet
from bayesprune.layers import eval_mode
from bayesprune.methods.protocol import Model
from bayesprune.training.batches import (
    Loader,
    batches_per_epoch,
    check_batch,
    check_last_batch,
    dtype_of,
    iterated,
    read_batch,
)


def check_net(net: Model) -> None:
    """Refuse what cannot be trained.

    Raises:
        ConfigError: for a network that belongs to another model by now, and for one of which nothing is to be learned.
    """
    net.check_owner()
    gates = net.num_gates if isinstance(net, BayesianNet) else 0
    if gates == 0 and not net.parameter_groups():
        raise ConfigError(
            "fit: nothing is to be learned: the network has no gates left, and none of its weights requires a "
            "gradient; set requires_grad of those that are to be trained to True"
        )


@dataclass(frozen=True)
class First:
    """What the first batch tells.

    Attributes:
        example: One example, where the network is.
        outputs: The network's outputs for it, shape ``(1, ...)``, on the host.
        batches: How many batches an epoch has.
    """

    example: Inputs
    outputs: Tensor
    batches: int


def check_data(net: Model, loader: Loader) -> First:
    """Look at the loader and its first batch.

    Args:
        net: What is trained.
        loader: Gives the batches of training.

    Raises:
        ConfigError: for what gives no batches or gives them only once, or a data set of another size than ``num_data``.
        DataError: for an empty loader, batches that are none, inputs that are not finite or that the network does not
            take, targets that do not fit the outputs, and a last batch of one example that a BatchNorm does not take.
    """
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized) and len(dataset) != net.num_data:
        raise ConfigError(
            f"fit: the BayesianNet was built with num_data={net.num_data}, but the train_loader's data set has "
            f"{len(dataset)} examples; they must agree, because num_data weighs prior against data"
        )
    with _looking(net, loader):
        batch = next(iterated(loader, "fit: the train_loader"), None)
    if batch is None:
        raise DataError("fit: the train_loader gave no batch; expected at least one example")
    x, y = read_batch(batch, dtype_of(net.net), "the first training batch")
    example = each(x[:1], lambda t: t.to(net.theta.device))
    with eval_mode(net), torch.no_grad(), misfits_named(net.net, example, "fit"):
        outputs = net(example).cpu()
    check_batch(net.likelihood, outputs, x, y, "the first training batch")
    if isinstance(loader, EpochLoader):  # all of its images are bytes, normalised alike: its labels are left to check
        net.likelihood.check(outputs.expand(len(loader.labels), *outputs.shape[1:]), loader.labels.cpu())
    check_last_batch(net, loader, example)
    return First(example, outputs, batches_per_epoch(loader, net.num_data, len(y)))


def check_loader(net: Model, outputs: Tensor, loader: Loader, where: str) -> None:
    """Look at every batch once.

    Args:
        net: What is trained.
        outputs: The network's outputs for one example, shape ``(1, ...)``.
        loader: Gives the batches.
        where: Which they are, for messages.

    Raises:
        ConfigError: for what gives no batches, or gives them only once.
        DataError: as `read_batch` and `check_batch`.
    """
    with _looking(net, loader):
        for number, batch in enumerate(iterated(loader, "fit: the val_loader")):
            place = f"{where} batch {number}"
            check_batch(net.likelihood, outputs, *read_batch(batch, dtype_of(net.net), place), place)


@contextmanager
def random_numbers_kept(loader: Loader) -> Iterator[None]:
    """Let a loader that is gone through within the context shuffle afterwards as if nobody had looked at it."""
    given = (getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", None)))
    held = [each for each in (torch.default_generator, *given) if isinstance(each, torch.Generator)]
    states = [generator.get_state() for generator in held]
    try:
        yield
    finally:
        for generator, state in zip(held, states, strict=True):
            generator.set_state(state)


def _looking(net: Model, loader: Loader) -> AbstractContextManager[None]:
    """The context in which a loader is looked at; runs of a `BayesianNet` go on with the numbers that follow.

    Only plain training promises those of a plain loop, and recorded runs with a posterior are to repeat.
    """
    return nullcontext() if isinstance(net, BayesianNet) else random_numbers_kept(loader)
