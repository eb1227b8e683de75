"""All that a model file may name: of the operations' records those that say so, under the names that torch has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bayesprune.ops import OPERATIONS
from bayesprune.ops.names import by_name

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


MODULES = _modules()
CLASSES = {cls.__name__: cls for cls in MODULES}
FUNCTIONS = by_name(function for operation in OPERATIONS if operation.files for function in operation.all_functions)
FUNCTION_NAMES = {function: name for name, function in reversed(FUNCTIONS.items())}
METHODS = {name for operation in OPERATIONS if operation.files for name in operation.all_methods}
