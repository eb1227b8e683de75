"""All that a model file may name: of the operations' records those that say so, under the names that torch has."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.ops import OPERATIONS

OWNERS: dict[str, Any] = {"operator.": operator, "functional.": F, "torch.": torch, "": builtins}
"""Where functions have names that files hold, the one that is written first, by what is put before it."""
ATTRIBUTES = {
    "shape": ["number"], "ndim": "number", "mT": "tensor", **dict.fromkeys(("dtype", "device", "values", "indices"))
}  # fmt: skip
"""What of a tensor, or of what ``max`` and ``topk`` give, may be read; and the kind of it (see `arithmetic`)."""


def _modules() -> dict[type[nn.Module], Mapping[str, str]]:
    """Torch's own layers that files may hold, with the attribute that has the value of each constructor argument."""
    found: dict[type[nn.Module], Mapping[str, str]] = {}
    for operation in OPERATIONS:
        arguments = operation.arguments
        if arguments is not None:
            named = arguments if isinstance(arguments, Mapping) else dict(zip(arguments, arguments, strict=True))
            found |= {cls: named for cls in operation.modules if getattr(nn, cls.__name__, None) is cls}
    return found


def _functions() -> dict[str, Callable[..., Any]]:
    """Functions that files may hold, under all public names that they have in ``OWNERS``."""
    allowed = {id(f): f for operation in OPERATIONS if operation.files for f in operation.all_functions}
    return {
        prefix + name: allowed[id(value)]
        for prefix, owner in OWNERS.items()
        for name, value in vars(owner).items()
        if id(value) in allowed and not name.startswith("_")
    }


MODULES = _modules()
CLASSES = {cls.__name__: cls for cls in MODULES}
FUNCTIONS = _functions()
FUNCTION_NAMES = {function: name for name, function in reversed(FUNCTIONS.items())}
METHODS = {name for operation in OPERATIONS if operation.files for name in operation.methods}
