"""The names that torch and Python have for functions, as model files and documentation write them."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

OWNERS: dict[str, Any] = {
    "operator.": operator, "functional.": F, "torch.": torch, "special.": torch.special, "": builtins
}  # fmt: skip
"""Where functions have names, by what is put before it."""

Function = Callable[..., Any]


def by_name(functions: Iterable[Function]) -> dict[str, Function]:
    """Functions by all public names that they have; of the names of one, the first is the one to write.

    Examples:
        >>> import torch
        >>> list(by_name([torch.conv1d]))
        ['functional.conv1d', 'torch.conv1d']
    """
    wanted = {id(function): function for function in functions}
    return {
        prefix + name: wanted[id(value)]
        for prefix, owner in OWNERS.items()
        for name, value in vars(owner).items()
        if id(value) in wanted and not name.startswith("_")
    }
