"""Numbers that are written out among the arguments of a call, ``400`` in ``x.view(-1, 400)``, and what they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from torch import Tensor, fx

from bayesprune.ops.registry import operation_of

Size = int | fx.Node
"""A number that is written out, or a call that computes one, which -1 may stand for."""
Literals = Mapping[fx.Node, Sequence[Size]]
"""By call, the numbers that are written among its sizes, in their order."""
MOST_TRIED = 256


def literals_of(node: fx.Node) -> list[Size]:
    """The numbers that are written among the sizes that a call is given."""
    found: list[Size] = []
    fx.node.map_aggregate(_sizes(node), lambda a: found.append(a) if _is_size(a) else None)  # type: ignore[arg-type]
    return found


def with_literals(node: fx.Node, literals: Sequence[Size]) -> tuple[Any, ...]:
    """The arguments of a call with other numbers written among its sizes.

    Args:
        node: The call.
        literals: As many as `literals_of` gives; where they are none, the call's own stay.
    """
    left = iter(literals)

    def written(own: Any) -> Any:
        new = next(left) if _is_size(own) else own
        return own if isinstance(new, fx.Node) else new

    sizes: Any = fx.node.map_aggregate(_sizes(node), written)
    first = 0 if operation_of(node).sizes is None else operation_of(node).sizes.start  # type: ignore[union-attr]
    return (*node.args[:first], *sizes, *node.args[first + len(sizes) :])


def _is_size(argument: Any) -> bool:
    return type(argument) is int or isinstance(argument, fx.Node)


def _sizes(node: fx.Node) -> tuple[Any, ...]:
    sizes = operation_of(node).sizes
    return () if sizes is None or node.op == "call_module" else tuple(node.args[sizes])


def candidates(literals: Literals, sizes: Sequence[tuple[int, int]], stays: Sequence[Tensor]) -> Iterator[Literals]:
    """What numbers that are written out may become when entries go, those that fit more likely first.

    A number may be a size of the result, that of a part or a place among entries, or a share of them. Calls in which
    numbers change while those in all others stay come before several that change at once.

    Args:
        literals: The numbers.
        sizes: Sizes of the result, and what they become.
        stays: For every tensor that is read, which of its entries stay, bool.
    """
    options: dict[fx.Node, list[Sequence[Size]]] = {}
    for node, numbers in literals.items():
        starts = _starts(operation_of(node).name, numbers)
        options[node] = [_options(*given, sizes, stays) for given in zip(numbers, starts, strict=True)]
    if len(literals) > 1:
        for node, choices in options.items():
            for chosen in islice(product(*choices), MOST_TRIED):
                yield {**literals, node: chosen}
    for all_chosen in islice(product(*(choice for choices in options.values() for choice in choices)), MOST_TRIED):
        left = iter(all_chosen)
        yield {node: [next(left) for _ in numbers] for node, numbers in literals.items()}


def _starts(name: str, numbers: Sequence[Size]) -> list[int | None]:
    """Where what is counted by each number begins, if it is a count of entries.

    Args:
        name: What operation they are given to: sizes of parts, one behind another, or places of cuts.
        numbers: The numbers.
    """
    if name == "split":
        return [sum(n for n in numbers[:k] if isinstance(n, int)) for k in range(len(numbers))]
    return [0 if name == "tensor split" else None for _ in numbers]


def _options(
    number: Size, start: int | None, sizes: Sequence[tuple[int, int]], stays: Sequence[Tensor]
) -> Sequence[Size]:
    """What one number may become.

    Args:
        number: The number.
        start: Where the entries begin that it counts, if it does.
        sizes: As for `candidates`.
        stays: The same.
    """
    if isinstance(number, fx.Node):
        return number, -1
    found: list[int] = []
    if start is not None:
        found += [int(stay[start : start + number].sum()) for stay in stays]
    found += [new for old, new in sizes if old == number > 0]
    for stay in stays if number > 0 else ():
        share, rest = divmod(number * int(stay.sum()), len(stay))
        found += [] if rest else [share]
        found += [int(stay[:number].sum())] if number <= len(stay) else []
    return list(dict.fromkeys([*found, number]))
