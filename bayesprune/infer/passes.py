"""The passes of a prediction: some rows at a time, every one through the same draws of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.checked import whole
from bayesprune.data.inputs import Arguments, Inputs, as_inputs, each, tensors_of
from bayesprune.errors import DataError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer.gated import GatedNet
from bayesprune.infer.random_state import RandomState
from bayesprune.layers import plain_parameters

ENTRIES, FEWEST = 2**18, 32
"""How many numbers the inputs of one pass have at most, unless so few rows have more."""


def prepared(net: GatedNet, x: Any, where: str) -> Inputs:
    """Inputs on the network's device, floating-point ones in the dtype of its weights.

    Args:
        net: The network that takes them.
        x: The inputs as a user gave them.
        where: What to call the inputs in errors.

    Raises:
        DataError: for inputs that are no tensors, or that are not finite.
    """
    weight = next(iter(plain_parameters(net.net).values()), net.theta)

    def ready(t: Tensor) -> Tensor:
        if t.is_floating_point():
            if not bool(torch.isfinite(t).all()):
                raise DataError(f"{where}: the inputs hold NaN or infinite values; remove or impute them")
            return t.to(weight.device, weight.dtype)
        return t.to(weight.device)

    x = as_inputs(x)
    if any(t.dim() == 0 for t in tensors_of(x)):
        raise DataError(f"{where}: the first dimension of inputs must be the batch, got a single number")
    return each(x, ready)


def pieces(x: Inputs, batch_size: int | None) -> list[Inputs]:
    """The rows of ``x``, some at a time.

    Args:
        x: Inputs, first dimension B.
        batch_size: How many; ``None`` for as many as have 2¹⁸ entries, at least 32.
    """
    if batch_size is None:
        entries = max(1, sum(t[:1].numel() for t in tensors_of(x)))
        batch_size = max(FEWEST, ENTRIES // entries)
    return [x[start : start + batch_size] for start in range(0, max(1, len(x)), batch_size)]


def _gives_batches(x: Any) -> bool:
    """Whether ``x`` is a loader and no inputs; a list or tuple is one if it holds batches with targets or dicts."""
    if isinstance(x, Sequence) and not isinstance(x, str):
        return len(x) > 0 and isinstance(x[0], (tuple, list, Mapping))
    return isinstance(x, Iterable) and not isinstance(x, (Tensor, np.ndarray, Arguments, Mapping, str))


class Passes:
    """Outputs of networks drawn from the posterior, for inputs of any number.

    Args:
        net: The network, in eval mode.
        sample: Draws a network and gives its outputs for parts of the inputs, one after the other.
        num_samples: How many networks; 0 for one, at the mode of the gates and the means of the weights.
        batch_size: Rows in one pass, see `pieces`.

    Raises:
        ConfigError: for a batch size below 1, or that is no whole number.
    """

    def __init__(
        self, net: GatedNet, sample: Callable[[Sequence[Inputs]], Tensor], num_samples: int, batch_size: int | None
    ):
        if batch_size is not None:
            batch_size = whole("predict: batch_size", batch_size)
        self.net, self.sample, self.num_samples, self.batch_size = net, sample, num_samples, batch_size

    def __call__(self, x: Any) -> Tensor:
        """All outputs, shape ``(num_samples, B, ...)``.

        Args:
            x: Inputs, or a loader of batches.

        Raises:
            DataError: for inputs that the network does not take, and a loader without a batch.
        """
        if not _gives_batches(x):
            return self._stacked(prepared(self.net, x, "predict"))
        parts = list(self._rewound(x))
        if not parts:
            raise DataError("predict: the loader gave no batch; expected at least one example")
        return torch.cat(parts, 1)

    def _rewound(self, loader: Iterable[Any]) -> Iterator[Tensor]:
        """The outputs of every batch, from the same random numbers; the loader draws its own in between."""
        device = self.net.theta.device
        start = end = RandomState.now(device)
        for number, batch in enumerate(loader):
            inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            outside = RandomState.now(device)
            start.restore()
            yield self._stacked(prepared(self.net, inputs, f"predict, batch {number}"))
            end = RandomState.now(device)
            outside.restore()
        if self.num_samples:
            end.restore()

    def _stacked(self, x: Inputs) -> Tensor:
        """Outputs for some inputs."""
        with misfits_named(self.net.net, x, "predict"):
            parts = pieces(x, self.batch_size)
            if not self.num_samples:
                return torch.cat([self.net(part) for part in parts])[None]
            return torch.stack([self.sample(parts) for _ in range(self.num_samples)])
