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

    A number may be a size of the result, that of a part or a place among entries, or a share of them.

    Args:
        literals: The numbers.
        sizes: Sizes of the result, and what they become.
        stays: For every tensor that is read, which of its entries stay, bool.
    """
    options: list[Sequence[Size]] = []
    for node, numbers in literals.items():
        several = operation_of(node).gives == ["tensor"]  # they are sizes of parts, one behind another
        for place, number in enumerate(numbers):
            start = sum(n for n in numbers[:place] if isinstance(n, int)) if several else None
            options.append(_options(number, start, sizes, stays))
    for chosen in islice(product(*options), MOST_TRIED):
        left = iter(chosen)
        yield {node: [next(left) for _ in numbers] for node, numbers in literals.items()}


def _options(
    number: Size, start: int | None, sizes: Sequence[tuple[int, int]], stays: Sequence[Tensor]
) -> Sequence[Size]:
    """What one number may become.

    Args:
        number: The number.
        start: Where its part begins, if it is the size of one.
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
