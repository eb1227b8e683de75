"""Refuse data that a network cannot be trained on, saying which batch and why."""

from __future__ import annotations

from collections.abc import Iterable, Sized

import torch
from torch import Tensor

from bayesprune.data import EpochLoader
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, Likelihood

Loader = Iterable[tuple[Tensor, Tensor]]


def check_net(net: BayesianNet) -> None:
    """Refuse what is no Bayesian network.

    Raises:
        ConfigError: for anything else, for one whose network belongs to another by now, and for one of which nothing
            is to be learned.
    """
    if not isinstance(net, BayesianNet):
        raise ConfigError(f"fit: expected a BayesianNet, got a {type(net).__name__}; wrap it: BayesianNet(net, ...)")
    net.check_owner()
    if net.num_gates == 0 and not net.parameter_groups():
        raise ConfigError(
            "fit: nothing is to be learned: the network has no gates left, and none of its weights requires a "
            "gradient; set requires_grad of those that are to be trained to True"
        )


def check_data(net: BayesianNet, loader: Loader) -> tuple[Tensor, Tensor]:
    """Look at the loader and its first batch; returns one example and the network's outputs for it.

    Raises:
        ConfigError: for a loader without a length, or of another size than ``num_data``.
        DataError: for an empty loader, inputs that are not finite, targets that do not fit the outputs.
    """
    if not isinstance(loader, Sized):
        raise ConfigError(
            "fit: the train_loader must have a length (len(train_loader) batches an epoch), so that the run's schedule "
            "is known"
        )
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized) and len(dataset) != net.num_data:
        raise ConfigError(
            f"fit: the BayesianNet was built with num_data={net.num_data}, but the train_loader's data set has "
            f"{len(dataset)} examples; they must agree, because num_data weighs prior against data"
        )
    batch = next(iter(loader), None)
    if batch is None:
        raise DataError("fit: the train_loader gave no batch; expected at least one example")
    example = batch[0][:1].to(net.theta.device)
    dtype = next(net.net.parameters()).dtype
    if example.is_floating_point() and example.dtype != dtype:
        raise DataError(
            f"fit: the inputs are {example.dtype}, the network's weights {dtype}; convert the inputs, x.float()"
        )
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            outputs = net(example).cpu()
    finally:
        net.train(was_training)
    check_batch(net.likelihood, outputs, *batch, "the first training batch")
    if isinstance(loader, EpochLoader):  # all of its images are bytes, normalised alike: its labels are left to check
        net.likelihood.check(outputs.expand(len(loader.labels), *outputs.shape[1:]), loader.labels.cpu())
    return example, outputs


def check_loader(likelihood: Likelihood, outputs: Tensor, loader: Loader, where: str) -> None:
    """Look at every batch once.

    Raises:
        DataError: as `check_batch`.
    """
    for number, (x, y) in enumerate(loader):
        check_batch(likelihood, outputs, x, y, f"{where} batch {number}")


def check_batch(likelihood: Likelihood, outputs: Tensor, x: Tensor, y: Tensor, where: str) -> None:
    """Look at the values of one batch.

    Args:
        likelihood: What the targets must fit.
        outputs: The network's outputs for one example, shape ``(1, ...)``.
        x: Inputs.
        y: Targets.
        where: Which batch this is, for the message.

    Raises:
        DataError: for inputs that are not finite, or targets that do not fit.
    """
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} inputs for {len(y)} targets; they must be equally many")
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"{where} holds NaN or infinite inputs; remove or impute them")
    try:
        likelihood.check(outputs.expand(len(y), *outputs.shape[1:]), y.cpu())
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
