"""bayesprune: Bayesian neural networks that prune themselves while they train.

Each name is imported when it is first used, so that ``import bayesprune`` alone takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesprune import (
        comparison,
        conversion,
        data,
        distributions,
        infer,
        layers,
        metrics,
        networks,
        optim,
        pruning,
        selection,
        training,
    )
    from bayesprune.comparison import compare
    from bayesprune.conversion import convert, structures
    from bayesprune.graph.groups import groups
    from bayesprune.infer import BayesianNet, standardised
    from bayesprune.pruning import compact, cost, load, save
    from bayesprune.training import fit, recommended

__version__ = "0.1.0"

__all__ = [
    "BayesianNet",
    "compact",
    "compare",
    "comparison",
    "conversion",
    "convert",
    "cost",
    "data",
    "distributions",
    "fit",
    "groups",
    "infer",
    "layers",
    "load",
    "metrics",
    "networks",
    "optim",
    "pruning",
    "recommended",
    "save",
    "selection",
    "standardised",
    "structures",
    "training",
]

_ROOMS = {
    "BayesianNet": "infer",
    "compact": "pruning",
    "compare": "comparison",
    "convert": "conversion",
    "cost": "pruning",
    "fit": "training",
    "groups": "graph.groups",
    "load": "pruning",
    "recommended": "training",
    "save": "pruning",
    "standardised": "infer",
    "structures": "conversion",
}
"""Where the names are that are no rooms themselves."""


def __getattr__(name: str) -> Any:
    """The public object called ``name``, imported now; Python asks for it the first time only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _ROOMS:
        value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    else:
        value = import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names, imported or not."""
    return sorted({*globals(), *__all__})
