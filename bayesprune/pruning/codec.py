"""Arguments of layers and operations as plain data that JSON holds, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from bayesprune.errors import CheckpointError, ConfigError

MOST_VALUES = 100_000
"""How many arguments all operations may have together, and all modules, lists and what is in them counted."""
LONGEST = 1_000
DEEPEST = 8
"""How many values a list may have, and how many lists one value may be in."""
DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def encode(value: Any, where: str) -> Any:
    """An argument as data; what JSON does not know is marked by its kind.

    Args:
        value: The argument.
        where: Whose it is, for the message.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (tuple, torch.Size)):
        return {"tuple": [encode(v, where) for v in value]}
    if isinstance(value, list):
        return [encode(v, where) for v in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, encode(v, where)] for key, v in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(v, where) for v in (value.start, value.stop, value.step)]}
    if value is ...:
        return {"ellipsis": None}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"save: a model file cannot hold the argument {value!r} of {where}")


class Decoder:
    """Gives back arguments that `encode` made plain, up to so many in all.

    Args:
        nodes: The operations so far, by the names that the file has for them.
        largest: The largest integer that an argument may be.

    Examples:
        >>> Decoder({}, largest=2**24)(encode((1, None, 2.5), "pad"))
        (1, None, 2.5)
    """

    def __init__(self, nodes: Mapping[str, fx.Node], largest: int):
        self.nodes, self.largest, self.left = nodes, largest, MOST_VALUES

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The argument; ``depth`` is how many lists it is in."""
        self.left -= 1
        if depth > DEEPEST or self.left < 0:
            raise CheckpointError(f"more than {MOST_VALUES:,} arguments, or some nested more than {DEEPEST} deep")
        if isinstance(value, list):
            if len(value) > LONGEST:
                raise CheckpointError(f"a list of {len(value):,} arguments, {LONGEST:,} are the most")
            return [self(v, depth + 1) for v in value]
        if not isinstance(value, dict):
            return self._plain(value, self.largest)
        (kind, content), *rest = value.items()
        if rest or kind not in ("node", "tuple", "slice", "dict", "dtype", "float", "ellipsis"):
            raise CheckpointError(f"an argument is marked {sorted(value)!r}")
        if kind == "node":
            return self.nodes[content]
        if kind == "float":
            return {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}[content]
        if kind == "ellipsis":
            return ...
        if kind == "dtype":
            return DTYPES[content]
        if kind == "dict":
            return dict(zip((str(key) for key, _ in content), self([v for _, v in content], depth), strict=True))
        if kind == "slice":
            return slice(*(self._plain(v, 2**63) if isinstance(v, int) else self(v, depth + 1) for v in content))
        return tuple(self(list(content), depth))

    @staticmethod
    def _plain(value: Any, largest: int) -> Any:
        """A value as it is, if it is not too large.

        Args:
            value: A number, a string, or nothing.
            largest: The largest integer that there may be.
        """
        if isinstance(value, int) and abs(value) > largest:
            raise CheckpointError(f"an argument is larger than {largest:,}")
        return value
