"""Batches as loaders give them, and what training makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.data import EpochLoader
from bayesprune.data.inputs import Inputs, as_inputs, as_tensor, each, tensors_of
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.infer.misfit import misfits_named
from bayesprune.infer.targets import Targets, WeightedTargets, each_target, values_of

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
            f"{where}: weights must be one number an example, shape ({len(y)},), got shape {tuple(weight.shape)}"
        )
    return x, WeightedTargets(y, weight)


def dtype_of(net: nn.Module) -> torch.dtype:
    """The dtype of a network's weights."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.get_default_dtype())


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
    """The part of `check_batch` that is about targets."""
    values = values_of(y)
    try:
        likelihood.check(outputs.expand(len(y), *outputs.shape[1:]), values.cpu())
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if isinstance(y, WeightedTargets) and not bool(_are_weights(y.weight).all()):
        raise DataError(
            f"{where}: weights must be finite and not negative; leave such examples out, or give them weight 0"
        )


class Reader:
    """Reads the batches of training, and looks at what they hold without making the device wait.

    In the first epoch every batch is looked at whole, and so is the first with targets of another shape. Later on
    inputs are not, while targets and weights are: on the host at once, on an accelerator by a flag that is read when
    the epoch ends (until then, entries that cannot be are taken for 0). Data sets that were checked as a whole are
    passed through.

    Args:
        net: The network.
        outputs: Its outputs for one example, shape ``(1, ...)``, on the host.
        loader: Where batches come from.
        place: Brings a tensor to the device.
    """

    def __init__(self, net: BayesianNet, outputs: Tensor, loader: Loader, place: Callable[[Tensor], Tensor]):
        self.likelihood, self.dtype, self.outputs, self.place = net.likelihood, dtype_of(net.net), outputs, place
        self.loader, self.num_data = loader, net.num_data
        self._whole = isinstance(loader, EpochLoader)
        self._placed = place(outputs)
        self._first, self._batches = True, 0
        self._kinds: set[tuple[torch.dtype, torch.Size]] = set()
        self._fits: Tensor | None = None

    def __call__(self, batch: Any, number: int) -> tuple[Inputs, Targets]:
        """Inputs and targets of batch ``number`` of an epoch, on the device.

        Raises:
            DataError: for a batch that cannot be trained on.
        """
        where, self._batches = f"training batch {number}", number + 1
        x, y = read_batch(batch, self.dtype, where)
        if not self._whole:
            y = self._looked_at(x, y, where)
        return each(x, self.place), each_target(y, self.place)

    def _looked_at(self, x: Inputs, y: Targets, where: str) -> Targets:
        """The targets, those on an accelerator with 0 for entries that cannot be."""
        values = values_of(y)
        kind = values.dtype, values.shape[1:]
        if self._first or kind not in self._kinds:
            check_batch(self.likelihood, self.outputs, x, y, where)
            self._kinds.add(kind)
            return y
        if values.device.type != "cpu":
            return self._flagged(y, values)
        possible = self.likelihood.possible(self.outputs.expand(len(values), *self.outputs.shape[1:]), values).all()
        if not (bool(possible) and (isinstance(y, Tensor) or bool(_are_weights(y.weight).all()))):
            check_targets(self.likelihood, self.outputs, y, where)
        return y

    def _flagged(self, y: Targets, values: Tensor) -> Targets:
        """The targets with 0 for entries that cannot be; that there are any is noted on their device."""
        outputs = self._placed.expand(len(values), *self._placed.shape[1:])
        possible = self.likelihood.possible(outputs, values)
        fits = possible.all() if isinstance(y, Tensor) else possible.all() & _are_weights(y.weight).all()
        self._fits = fits if self._fits is None else self._fits & fits
        values = torch.where(possible, values, torch.zeros_like(values))
        return values if isinstance(y, Tensor) else WeightedTargets(values, y.weight)

    def end_epoch(self, batches: int, count: int, more: bool = False) -> None:
        """Look at the epoch as a whole.

        Args:
            batches: How many batches the schedule gives it.
            count: How many examples it had.
            more: Whether there were more batches, which were left aside.

        Raises:
            ConfigError: for another number of batches than the loader says or was to be expected of one without a
                length, and for another number of examples than ``num_data``, unless a data set states it.
            DataError: for an epoch without a batch, or with targets or weights that cannot be.
        """
        fits, self._first, self._fits = self._fits, False, None
        if count == 0:
            raise DataError("fit: the train_loader gave no batch in this epoch; it must give all of them every epoch")
        if fits is not None and not bool(fits):
            raise DataError(
                "the epoch held targets that the likelihood does not take (labels out of range, NaN), or weights that "
                "are negative or not finite; look at what the loader does after its first epoch"
            )
        had = f"more than {batches}" if more else str(self._batches)
        wrong = more or self._batches != batches
        if wrong and batches_stated(self.loader) is not None:
            raise ConfigError(
                f"fit: len(train_loader) says {batches} batches an epoch, but it gave {had}; they must agree, because "
                "the schedule of the run is made from it"
            )
        self._check_count(count)
        if wrong:
            raise ConfigError(
                f"fit: an epoch of the train_loader, which has no length, had {had} batches, where its first "
                f"batch and num_data={self.num_data} let expect {batches}; give it a length, or batches of one size"
            )

    def _check_count(self, count: int) -> None:
        if not isinstance(getattr(self.loader, "dataset", None), Sized):
            dropped = self.num_data - count if getattr(self.loader, "drop_last", False) else 0
            if count + dropped != self.num_data or dropped < 0:
                raise ConfigError(
                    f"fit: the BayesianNet was built with num_data={self.num_data}, but an epoch of the train_loader "
                    f"has {count} examples; they must agree, because num_data weighs prior against data"
                )


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


def check_last_batch(net: BayesianNet, loader: Loader, example: Inputs) -> None:
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


def _are_weights(weight: Tensor) -> Tensor:
    return weight.isfinite() & (weight >= 0)


def _kind(batch: Any) -> str:
    if isinstance(batch, dict):
        return f"a dict of {', '.join(map(repr, batch)) or 'nothing'}"
    return f"{len(batch)} values" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
