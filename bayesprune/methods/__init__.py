"""Methods of pruning, one module or package each: a new one is found by its file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from bayesprune.checked import meant
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Batch, Decision, Method, Needs, Phase, Run, Site, Stats, Value

SHARED = ("protocol", "solvers")
"""What methods have in common."""
NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED))
"""Names of all methods."""

__all__ = [
    "NAMES",
    "Batch",
    "Decision",
    "Method",
    "Needs",
    "Phase",
    "Run",
    "Site",
    "Stats",
    "Value",
    "get_method",
]


def get_method(name: str, **options: Any) -> Method:
    """The method called ``name``: the class in the module of that name that bears it, made with these options.

    Args:
        name: One of `NAMES`.
        options: What it is made with, see the arguments of its class.

    Raises:
        ConfigError: for an unknown name, and for an option that the method does not have.

    Examples:
        >>> get_method("magnitude", sparsity=0.5).sparsity
        0.5
    """
    if name not in NAMES:
        raise ConfigError(f"unknown method {name!r}{meant(name, NAMES)}; known are {', '.join(NAMES)}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = {cls for cls in vars(module).values() if isinstance(cls, type) and issubclass(cls, Method)}
    (cls,) = (cls for cls in found if cls.name == name)
    known = list(inspect.signature(cls).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        has, guess = ", ".join(known) or "none", meant(unknown[0], known)
        raise ConfigError(f"the method {name!r} has no option {unknown[0]!r}{guess}; its options: {has}")
    return cls(**options)
