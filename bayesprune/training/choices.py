"""What is trained and how, of what `fit` was given."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.infer.likelihoods import get_likelihood
from bayesprune.infer.outputs import LossOn
from bayesprune.infer.plain import PlainNet
from bayesprune.layers import normal_layers
from bayesprune.methods.protocol import Method, Model
from bayesprune.methods.svi.method import SVI
from bayesprune.methods.svi.recipes import recommended
from bayesprune.methods.svi.settings import Settings
from bayesprune.optim import OPTIMIZERS
from bayesprune.training.batches import Loader, count_examples
from bayesprune.training.checks import random_numbers_kept


def check_method(method: Method) -> None:
    """Refuse a method that could not be kept in checkpoints.

    Raises:
        ConfigError: if its ``__init__`` leaves out that of `Method`, or does not keep its arguments.
    """
    kind = type(method).__name__
    if "_modules" not in vars(method):
        raise ConfigError(f"fit: {kind}.__init__ must begin with super().__init__(); a Method is a torch.nn.Module")
    try:
        method.options()
    except AttributeError as error:
        raise ConfigError(
            f"fit: {kind}.__init__ must keep each argument under its own name (self.x = x), or `options` must be "
            f"replaced: checkpoints tell methods apart by them ({error})"
        ) from error


def model_of(
    model: nn.Module,
    method: Method,
    likelihood: str | Likelihood | None,
    loss_on: LossOn,
    loader: Loader,
    processes: int,
) -> Model:
    """What a method trains of what `fit` was given.

    Args:
        model: A `BayesianNet`, or a network.
        method: The method.
        likelihood: Of a plain network; ``None`` for categorical.
        loss_on: Which output of a plain network the likelihood sees.
        loader: Its training batches, which tell how many examples there are.
        processes: How many share them.

    Raises:
        ConfigError: for what the method does not train, for what a `BayesianNet` has of its own, and as `check_method`.
    """
    check_method(method)
    if isinstance(model, BayesianNet):
        if not method.posterior:
            raise ConfigError(
                f"fit: method {method.name!r} trains a network without a posterior, got a BayesianNet; give the "
                "network that it was built of"
            )
        for name, given in (("likelihood", likelihood), ("loss_on", loss_on)):
            if given is not None:
                raise ConfigError(f"fit: a BayesianNet has a {name} of its own; leave the keyword out")
        return model
    if method.posterior:
        raise ConfigError(
            f"fit: expected a BayesianNet, got a {type(model).__name__}; wrap it: BayesianNet(net, ...), or train "
            "it by another method: method='none'"
        )
    if normal_layers(model):
        raise ConfigError(
            f"fit: method {method.name!r} trains no posterior, and the network has the Normal weights of a "
            "BayesianNet; build the network anew"
        )
    with random_numbers_kept(loader):
        num_data = count_examples(loader, processes)
    return PlainNet(model, get_likelihood(likelihood or "categorical"), num_data, loss_on)


def settings_of(model: nn.Module, method: Method, given: Settings | None) -> Settings:
    """How to train: as `fit` was told, or variational inference as it was made, or as `recommended`.

    Args:
        model: What `fit` was given to train.
        method: By which method; variational inference goes by what is returned.
        given: What it was told.

    Raises:
        ConfigError: for settings of gates where none has a posterior, or that contradict those of the method.
    """
    if not method.posterior:
        settings = given or _for_a_plain_network(model)
        heard = {name: getattr(settings, name) for name in ("lr", "optimizer", "layer_decay", "freeze_statistics")}
        default = Settings(**heard)
        for name in (field.name for field in fields(Settings)):
            if getattr(settings, name) != getattr(default, name):
                raise ConfigError(
                    f"fit: Settings.{name} is about gates with a posterior, which method {method.name!r} has not; "
                    "leave it out, or train a BayesianNet"
                )
        return settings
    made_with = method.made_with if isinstance(method, SVI) else None
    if None not in (given, made_with) and given != made_with:
        raise ConfigError(
            "fit: settings are given twice and differ: in SVI(settings) and in fit; leave one of them out"
        )
    settings = given or made_with or recommended(model).settings()
    if isinstance(method, SVI):
        method.settings = settings
    return settings


def _for_a_plain_network(net: nn.Module) -> Settings:
    """What is recommended for a network without a posterior, as far as it is heard."""
    recipe = recommended(net)
    optimizer = OPTIMIZERS[recipe.optimizer]
    if recipe.weight_decay is not None:
        optimizer = partial(optimizer, weight_decay=recipe.weight_decay)
    return Settings(lr=recipe.lr, optimizer=optimizer)
