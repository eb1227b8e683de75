"""Refuse data that a network cannot be trained on, saying which batch and why."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from bayesprune.data import EpochLoader
from bayesprune.data.inputs import Inputs, each
from bayesprune.errors import ConfigError, DataError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.infer.likelihoods import get_likelihood
from bayesprune.infer.plain import PlainNet
from bayesprune.layers import eval_mode
from bayesprune.methods.protocol import Method, Model
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.batches import (
    Loader,
    batches_per_epoch,
    check_batch,
    check_last_batch,
    count_examples,
    dtype_of,
    iterated,
    read_batch,
)


def model_of(model: object, method: Method, likelihood: str | Likelihood | None, loader: Loader) -> Model:
    """What a method trains of what `fit` was given.

    Args:
        model: A `BayesianNet`, or a network.
        method: The method.
        likelihood: Of a plain network; ``None`` for categorical.
        loader: Its training batches, which tell how many examples there are.

    Raises:
        ConfigError: for what the method does not train, and a likelihood beside the one of a `BayesianNet`.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"fit: expected a BayesianNet or another network, got a {type(model).__name__}")
    if isinstance(model, BayesianNet):
        if not method.posterior:
            raise ConfigError(
                f"fit: method {method.name!r} trains a network without a posterior, got a BayesianNet; give the "
                "network that it was built of"
            )
        if likelihood is not None:
            raise ConfigError("fit: a BayesianNet has a likelihood of its own; leave the keyword out")
        return model
    if method.posterior:
        raise ConfigError(
            f"fit: expected a BayesianNet, got a {type(model).__name__}; wrap it: BayesianNet(net, ...), or train "
            "it by another method: method='none'"
        )
    return PlainNet(model, get_likelihood(likelihood or "categorical"), count_examples(loader))


def check_settings(settings: Settings, method: Method) -> None:
    """Refuse settings that a method would pass over.

    Args:
        settings: How to train.
        method: The method.

    Raises:
        ConfigError: for settings of gates where none has a posterior.
    """
    heard = Settings(lr=settings.lr, optimizer=settings.optimizer)
    unheard = [field.name for field in fields(Settings) if getattr(settings, field.name) != getattr(heard, field.name)]
    if unheard and not method.posterior:
        raise ConfigError(
            f"fit: Settings.{unheard[0]} is about gates with a posterior, which method {method.name!r} has not; leave "
            "it out, or train a BayesianNet"
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

    Raises:
        ConfigError: for what gives no batches, or gives them only once.
        DataError: as `read_batch` and `check_batch`.
    """
    for number, batch in enumerate(iterated(loader, "fit: the val_loader")):
        place = f"{where} batch {number}"
        check_batch(net.likelihood, outputs, *read_batch(batch, dtype_of(net.net), place), place)
