"""Batches as loaders give them, and what training makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.arrays import as_tensor
from bayesprune.data import EpochLoader
from bayesprune.data.inputs import Inputs, as_inputs, each, tensors_of
from bayesprune.errors import ConfigError, DataError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer import Likelihood
from bayesprune.infer.targets import Targets, WeightedTargets, values_of
from bayesprune.layers import plain_parameters
from bayesprune.methods.protocol import Model

Loader = Iterable[Any]
"""Batches ``(inputs, targets)`` or ``(inputs, targets, weights)``, see `read_batch`."""


def read_batch(batch: Any, dtype: torch.dtype, where: str) -> tuple[Inputs, Targets]:
    """Inputs and targets of one batch, floating-point ones in the dtype of the weights, without gradient.

    Args:
        batch: ``(inputs, targets)`` or ``(inputs, targets, weights)``, a tuple or list. All are tensors or arrays of
            numpy, first dimension B; several inputs are a tuple, list or dict of such. Weights say how much each
            example counts, shape ``(B,)``.
        dtype: That of the network's weights.
        where: Which batch this is, for the message.

    Raises:
        DataError: for anything else, or an empty batch.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise DataError(
            f"{where}: expected (inputs, targets) or (inputs, targets, weights), got {_kind(batch)}; let the loader's "
            "collate_fn give that (several inputs are a tuple or a dict within it)"
        )

    def ready(t: Tensor) -> Tensor:
        return t.detach().to(dtype) if t.is_floating_point() and (t.dtype != dtype or t.requires_grad) else t

    try:
        x, y = each(as_inputs(batch[0]), ready), ready(as_tensor(batch[1], "targets"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if any(t.dim() == 0 for t in (*tensors_of(x), y)):
        raise DataError(f"{where}: the first dimension of inputs and targets must be the batch, got a single number")
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} inputs for {len(y)} targets; they must be equally many")
    if len(y) == 0:
        raise DataError(f"{where} is empty; leave out batches without examples")
    if len(batch) == 2:
        return x, y
    weight = as_tensor(batch[2], f"{where}: weights").detach().to(dtype)
    if weight.shape != (len(y),):
        raise DataError(
            f"{where}: weights, the third of (inputs, targets, weights), must be one number an example, shape "
            f"({len(y)},), got shape {tuple(weight.shape)}; several inputs are one tuple: ((x, z), y)"
        )
    return x, WeightedTargets(y, weight)


def dtype_of(net: nn.Module) -> torch.dtype:
    """The dtype of a network's weights."""
    weights = plain_parameters(net).values()  # θ, which may come first, has a dtype of its own
    return next((p.dtype for p in weights if p.is_floating_point()), torch.get_default_dtype())


def check_batch(likelihood: Likelihood, outputs: Tensor, x: Inputs, y: Targets, where: str) -> None:
    """Look at the values of one batch.

    Args:
        likelihood: What the targets must fit.
        outputs: The network's outputs for one example, shape ``(1, ...)``.
        x: Inputs.
        y: Targets.
        where: Which batch this is, for the message.

    Raises:
        DataError: for inputs that are not finite, targets that do not fit, or weights that cannot be.
    """
    if not all(bool(torch.isfinite(t).all()) for t in tensors_of(x)):
        raise DataError(f"{where} holds NaN or infinite inputs; remove or impute them")
    check_targets(likelihood, outputs, y, where)


def check_targets(likelihood: Likelihood, outputs: Tensor, y: Targets, where: str) -> None:
    """The part of `check_batch` that is about targets.

    Args:
        likelihood: What they must fit.
        outputs: The network's outputs for one example, shape ``(1, ...)``.
        y: The targets.
        where: Which batch this is, for the message.
    """
    values = values_of(y)
    try:
        likelihood.check(outputs.expand(len(y), *outputs.shape[1:]), values.cpu())
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if isinstance(y, WeightedTargets) and not bool(are_weights(y.weight).all()):
        raise DataError(
            f"{where}: weights must be finite and not negative; leave such examples out, or give them weight 0"
        )


def iterated(loader: Loader, what: str) -> Iterator[Any]:
    """The batches of a loader that is to be gone through more than once.

    Args:
        loader: The loader.
        what: Which one it is, for the message.

    Raises:
        ConfigError: for an iterator.
    """
    batches = iter(loader)
    if batches is loader:
        raise ConfigError(
            f"{what} is an iterator, which can be gone through only once; give what makes it, such as a DataLoader"
        )
    return batches


def order(loader: Loader, epoch: int) -> None:
    """Let the next batches of a loader be those of an epoch, if it has different ones.

    Args:
        loader: The loader.
        epoch: Number of the epoch, from 0.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)


def batches_stated(loader: Loader) -> int | None:
    """The length of a loader, ``None`` without one."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # that of torch, over an iterable data set without a length
        return None


def batches_per_epoch(loader: Loader, num_data: int, size: int) -> int:
    """How many batches an epoch has.

    Args:
        loader: Gives batches, again every epoch.
        num_data: Number of examples an epoch, which tells where the loader has no length.
        size: Examples in its first batch.
    """
    stated = batches_stated(loader)
    if stated is not None:
        return stated
    return num_data // size if getattr(loader, "drop_last", False) else math.ceil(num_data / size)


def count_examples(loader: Loader, processes: int) -> int:
    """How many examples a loader gives in an epoch: those of its data set, or of its batches in all processes.

    Args:
        loader: Gives the batches of this process.
        processes: How many there are.

    Raises:
        ConfigError: for an iterator.
        DataError: for batches that are none.
    """
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized):
        return len(dataset)
    batches = enumerate(iterated(loader, "fit: the train_loader"))
    sizes = [len(read_batch(batch, torch.get_default_dtype(), f"training batch {k}")[1]) for k, batch in batches]
    return max(1, sum(sizes) * processes)


def check_last_batch(net: Model, loader: Loader, example: Inputs) -> None:
    """Refuse a last batch of one example where a BatchNorm would have nothing to average over.

    Args:
        net: The network.
        loader: The training batches; only where their sizes can be told beforehand is anything checked.
        example: One example, where the network is.

    Raises:
        DataError: for such a batch.
    """
    if 1 not in _known_sizes(loader):
        return
    was_training = net.training
    devices = [example.device] if example.device.type == "cuda" else []
    net.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), net.frozen_statistics():
            net(example)
    except ValueError as error:
        if not _is_lone_example(error):
            raise
        raise _lone_example("fit: the last training batch") from error
    finally:
        net.train(was_training)


@contextmanager
def batch_errors(net: nn.Module, x: Inputs, number: int) -> Iterator[None]:
    """Turn what torch raises of a batch that the network cannot take into one line.

    Args:
        net: The network.
        x: Inputs of the batch.
        number: Its place in the epoch.

    Raises:
        DataError: if the inputs are what it cannot take.
    """
    where = f"training batch {number}"
    with misfits_named(net, x, where):
        try:
            yield
        except ValueError as error:
            if _is_lone_example(error):
                raise _lone_example(where) from error
            raise


def _is_lone_example(error: ValueError) -> bool:
    """Whether this is what a BatchNorm says of a batch of one."""
    return "Expected more than 1 value per channel" in str(error)


def _lone_example(where: str) -> DataError:
    return DataError(
        f"{where} has one example, over which a BatchNorm cannot average; give the DataLoader drop_last=True or "
        "another batch_size"
    )


def _known_sizes(loader: Loader) -> Sequence[int]:
    """Sizes of the batches of an epoch, or at least of the first and the last, as far as they are known."""
    if isinstance(loader, EpochLoader):
        return [stop - start for _, start, stop in loader.spans]
    dataset, size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    if not isinstance(size, int) or not isinstance(dataset, Sized):
        return []
    return [size] if getattr(loader, "drop_last", False) else [size, len(dataset) % size]


def are_weights(weight: Tensor) -> Tensor:
    """Which weights can be, bool: finite and not negative ones."""
    return weight.isfinite() & (weight >= 0)


def _kind(batch: Any) -> str:
    if isinstance(batch, dict):
        return f"a dict of {', '.join(map(repr, batch)) or 'nothing'}"
    return f"{len(batch)} values" if isinstance(batch, (tuple, list)) else f"an object of class {type(batch).__name__}"
