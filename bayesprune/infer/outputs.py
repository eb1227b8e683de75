"""Which of several outputs the likelihood sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bayesprune.errors import ConfigError

LossOn = int | str | Callable[[Any], Tensor] | None
"""An index, a key, a function of all outputs, or ``None`` for a network with one output."""


def chosen(outputs: Any, loss_on: LossOn) -> Tensor:
    """The tensor among a network's outputs that the likelihood sees.

    Args:
        outputs: What the network gives: a tensor, or tensors in a tuple, list or dict.
        loss_on: The index of one in a tuple or list, the key in a dict, or a function that gives it of all outputs.

    Raises:
        ConfigError: if that does not give a tensor.
    """
    if loss_on is None:
        found = outputs
    elif callable(loss_on):
        found = loss_on(outputs)
    elif isinstance(outputs, Tensor):  # its entries are examples
        found = None
    else:
        try:
            found = outputs[loss_on]
        except (KeyError, IndexError, TypeError, ValueError):
            found = None
    if isinstance(found, Tensor):
        return found
    said = "" if loss_on is None else f", and loss_on={loss_on!r} finds no tensor in it"
    raise ConfigError(
        f"the network gives {_described(outputs)}{said}; say which tensor the likelihood sees: loss_on=0, "
        "loss_on='logits', or a function of the outputs"
    )


def _described(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f"a dict of {', '.join(map(repr, outputs)) or 'nothing'}"
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        return f"a {type(outputs).__name__} of {len(outputs)}"
    return f"a {type(outputs).__name__}"
