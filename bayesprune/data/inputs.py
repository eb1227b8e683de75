"""What a network is called with: one tensor, or several of which a batch is cut as if they were one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.arrays import as_tensor
from bayesprune.errors import DataError


class Arguments:
    """Several inputs of one forward pass, first dimension the batch in each; what follows asks it as it asks a tensor.

    Args:
        args: Inputs by position.
        kwargs: Inputs by the name of their parameter.

    Raises:
        DataError: for no input at all, or inputs of different numbers of examples.
    """

    def __init__(self, *args: Tensor, **kwargs: Tensor):
        self.args, self.kwargs = args, kwargs
        tensors = self.tensors()
        if not tensors:
            raise DataError("inputs: expected at least one tensor, got an empty tuple or dict")
        if any(t.dim() == 0 or len(t) != len(tensors[0]) for t in tensors):
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise DataError(
                f"inputs: the first dimension of each must be the batch, equally long in all; got shapes {shapes}"
            )

    def tensors(self) -> list[Tensor]:
        """All inputs, those by position first."""
        return [*self.args, *self.kwargs.values()]

    def map(self, function: Callable[[Tensor], Tensor]) -> Arguments:
        """The same inputs, each as ``function`` gives it."""
        return Arguments(*map(function, self.args), **{name: function(t) for name, t in self.kwargs.items()})

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.tensors()[0])

    def __getitem__(self, examples: Any) -> Arguments:
        """Some of the examples."""
        return self.map(lambda t: t[examples])

    @property
    def device(self) -> torch.device:
        """Where the first input lies."""
        return self.tensors()[0].device


Inputs = Tensor | Arguments


def as_inputs(x: Any) -> Inputs:
    """Inputs as they are given: a tensor, an array of numpy, several of them in a tuple or list, or a dict by name.

    Raises:
        DataError: for anything else, or inputs of different numbers of examples.
    """
    if isinstance(x, (Tensor, Arguments)):
        return x
    if isinstance(x, Mapping):
        return Arguments(**{str(name): as_tensor(value, f"input {name!r}") for name, value in x.items()})
    if isinstance(x, Sequence) and not isinstance(x, str):
        return Arguments(*(as_tensor(value, f"input {place}") for place, value in enumerate(x)))
    return as_tensor(x, "inputs")


def each(x: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs, each as ``function`` gives it.

    Args:
        x: One input or several.
        function: Applied to every tensor.
    """
    return function(x) if isinstance(x, Tensor) else x.map(function)


def tensors_of(x: Inputs) -> list[Tensor]:
    """The inputs as a list."""
    return [x] if isinstance(x, Tensor) else x.tensors()


def as_call(x: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What a forward pass is given, by place and by name."""
    return ((x,), {}) if isinstance(x, Tensor) else (x.args, x.kwargs)


def called(net: nn.Module, x: Inputs) -> Any:
    """What ``net`` gives for these inputs.

    Args:
        net: Any network.
        x: What its forward pass takes.
    """
    args, kwargs = as_call(x)
    return net(*args, **kwargs)


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Batches of like inputs, one after the other, as one."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([x for x in batches if isinstance(x, Tensor)])
    columns = zip(*(tensors_of(x) for x in batches), strict=True)
    tensors = [torch.cat(column) for column in columns]
    return Arguments(*tensors[: len(first.args)], **dict(zip(first.kwargs, tensors[len(first.args) :], strict=True)))


def shapes_of(x: Inputs) -> list[tuple[int, ...]]:
    """Shape of one example, input by input."""
    return [tuple(t.shape[1:]) for t in tensors_of(x)]
