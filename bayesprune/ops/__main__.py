"""``python -m bayesprune.ops``: the documentation's page of operations, as Markdown, made of their records."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill

from torch import nn

from bayesprune.ops.names import by_name
from bayesprune.ops.registry import OPERATIONS, Operation

HEAD = """# Operations

What the package knows of layers, functions and methods, made of its records (`bayesprune/ops`) by

    python -m bayesprune.ops > docs/operations.md

## Followed

Structures are followed from the gate that switches them off to the last layer that holds a part of them, through calls
of these operations that their rules understand. A call that is not understood stops them, as a wall does: where that
matters, `bp.BayesianNet` and `bayesprune.graph.check_gates` say so with the reason before anything is trained.

Some are followed by running them on numbers of entries, for which shapes must be known: give `bp.BayesianNet` an
`example_input`. Those that say *yes* here need none in the most common cases, and more is followed with one.

*Cut* says whether the operation has tensors of its own that are cut with the structures; expected parameters and
multiply-adds go by them. Multiply-adds of all other operations are counted as they run, and go with their outputs.
*File* says whether `bp.save` writes the operation.

| operation | layers | functions and methods | followed | cut | file |
| --- | --- | --- | --- | --- | --- |
"""
WALLS = """
## Walls

Nothing can be followed through these operations: structures before them stay. The same holds for whatever is not on
this page. What is said of a gate before them is in italics.
"""


def page() -> str:
    """The whole page."""
    rows = [_row(operation) for operation in OPERATIONS if operation.entries is not None or operation.moves]
    walls = [operation for operation in OPERATIONS if operation.entries is None and not operation.moves]
    lists = []
    for reason in dict.fromkeys(operation.wall for operation in walls):
        for files in (True, False):
            names = [name for o in walls if (o.wall, _savable(o)) == (reason, files) for name in _names(o)]
            if names:
                held = "hold" if files else "do not hold"
                lists.append(f"\n*It reaches one {reason}*; model files {held} these:\n\n{fill(_code(names), 118)}\n")
    return HEAD + "\n".join(rows) + "\n" + WALLS + "".join(lists)


def _row(operation: Operation) -> str:
    """The line of an operation in the table."""
    marks = ["yes" if flag else "no" for flag in (operation.parts is not None, _savable(operation))]
    followed = "with an example" if operation.entries is None else "yes"
    cells = [operation.name, _code(map(_layer, operation.modules)), _code(_calls(operation)), followed, *marks]
    return f"| {' | '.join(cells)} |"


def _names(operation: Operation) -> list[str]:
    return [*map(_layer, operation.modules), *_calls(operation)]


def _layer(module: type[nn.Module]) -> str:
    room = "nn" if module.__module__.startswith("torch") else "layers"
    return f"{room}.{module.__name__}"


def _calls(operation: Operation) -> list[str]:
    """Its functions, each under one name, its methods, and what other libraries have."""
    first: dict[int, str] = {}
    for name, function in by_name(operation.all_functions).items():
        first.setdefault(id(function), name.replace("functional.", "F."))
    return [*first.values(), *(f".{method}()" for method in operation.all_methods), *operation.foreign]


def _savable(operation: Operation) -> bool:
    return operation.files or operation.arguments is not None


def _code(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(page(), end="")
