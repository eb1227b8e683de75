"""Reads the batches of training, and looks at what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor

from bayesprune.data import EpochLoader
from bayesprune.data.inputs import Inputs, each
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet
from bayesprune.infer.targets import Targets, WeightedTargets, each_target, values_of
from bayesprune.methods.protocol import Model
from bayesprune.training.batches import (
    Loader,
    are_weights,
    batches_stated,
    check_batch,
    check_targets,
    dtype_of,
    read_batch,
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

    def __init__(self, net: Model, outputs: Tensor, loader: Loader, place: Callable[[Tensor], Tensor]):
        self.likelihood, self.dtype, self.outputs, self.place = net.likelihood, dtype_of(net.net), outputs, place
        self.loader, self.num_data = loader, net.num_data
        self.expected = (
            f"the BayesianNet was built with num_data={net.num_data}"
            if isinstance(net, BayesianNet)
            else f"the train_loader gave {net.num_data} at first"
        )
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
        if not (bool(possible) and (isinstance(y, Tensor) or bool(are_weights(y.weight).all()))):
            check_targets(self.likelihood, self.outputs, y, where)
        return y

    def _flagged(self, y: Targets, values: Tensor) -> Targets:
        """The targets with 0 for entries that cannot be; that there are any is noted on their device."""
        outputs = self._placed.expand(len(values), *self._placed.shape[1:])
        possible = self.likelihood.possible(outputs, values)
        fits = possible.all() if isinstance(y, Tensor) else possible.all() & are_weights(y.weight).all()
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
                    f"fit: {self.expected}, but an epoch of the train_loader has {count} examples; they must agree, "
                    "because num_data weighs prior against data"
                )
