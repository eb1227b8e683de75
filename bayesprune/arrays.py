"""Arrays of numpy, where a tensor is as good."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.errors import DataError


def as_tensor(value: Any, what: str) -> Tensor:
    """A tensor as it is, an array of numpy as a tensor that holds a copy, of the same kind of numbers.

    Args:
        value: The tensor or array.
        what: What it is, for the message.

    Raises:
        DataError: for anything else.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(value.copy())  # which may also lie backwards, or be read only
        except (TypeError, ValueError):
            raise DataError(f"{what}: an array of {value.dtype} has no numbers that torch knows") from None
    raise DataError(f"{what}: expected a tensor or an array of numpy, got a {type(value).__name__}")
