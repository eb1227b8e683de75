"""What the values of a traced forward pass are for some examples, and what of that Python may go by."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from bayesprune.conversion.sharing import note_memory
from bayesprune.graph.tracer import Value
from bayesprune.ops.registry import UNKNOWN, operation_at

SETTINGS = torch.device, torch.dtype, torch.layout, bool
"""Kinds of attributes of tensors that are the same for all examples of one kind, and no values of a graph."""


SIZED_BY_VALUES = {
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"),
}
"""Functions and methods whose results have sizes that go by what tensors hold."""


class Seen(NamedTuple):
    """What a value of the graph is.

    Attributes:
        values: For each number of copies.
        loose: Whether it is a number, or made of numbers, that follows from that of examples or from what tensors hold.
        made: Whether it is a tensor that is made of sizes alone.
        told: Whether its size, or a number that it is, follows from what tensors hold.
    """

    values: tuple[Any, ...]
    loose: bool = False
    made: bool = False
    told: bool = False


class Known(Value):
    """A value of a traced forward pass that is also known for some examples, if there is an example.

    Attributes:
        seen: What it is for them.
        made_by: The call that gives it, if that makes a tensor: its function, and what it is given by place and name.
    """

    seen: Seen | None = None
    made_by: tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]] | None = None

    def know(self, seen: Seen) -> None:
        """Keep what it is."""
        self.seen = seen
        note_memory(self.node, seen.values)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.seen.values[0], name, None) if self.seen else None
        if found is None or callable(found):
            return super().__getattr__(name)
        if isinstance(found, SETTINGS) or name == "ndim":
            self.tracer.formats.note(self, found)  # type: ignore[attr-defined]
            return found
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.seen is None:
            raise fx.proxy.TraceError("a part of a tensor is written over, for which an example has to tell shapes")
        self.tracer.writes.write(self, key, value)  # type: ignore[attr-defined]

    def plain(self, what: str) -> Any:
        """What it is, for Python to go by.

        Args:
            what: What Python needs, for messages.
        """
        if self.seen is None or self.seen.loose or holds_tensors(self.seen.values[0]):
            raise fx.proxy.TraceError(f"{what} follows from what tensors hold, or from the number of examples")
        self.tracer.asked.append(self)  # type: ignore[attr-defined]
        return self.seen.values[0]

    def __index__(self) -> int:
        return operator.index(self.plain("a number"))

    def __float__(self) -> float:
        return float(self.plain("a number"))

    def __len__(self) -> int:
        lengths = {len(value) for value in self.seen.values} if self.seen and not self.seen.told else set()
        if len(lengths) != 1:
            raise fx.proxy.TraceError("a length is not known, or follows from what tensors hold, or their number")
        return lengths.pop()

    def __iter__(self) -> Iterator[Any]:
        if self.seen is None:
            return super().__iter__()
        return iter([self[place] for place in range(len(self))])  # type: ignore[index]


def sized_by_values(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether what a call gives has a size that goes by what tensors hold.

    Args:
        target: What is called.
        args: What it is given by place.
        kwargs: What it is given by name.
    """
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name == "getitem":
        places = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(place, Tensor) and place.dtype in (torch.bool, torch.uint8) for place in places)
    if name in ("arange", "repeat_interleave"):
        return any(isinstance(size, Tensor) for size in (*args[name == "repeat_interleave" :], *kwargs.values()))
    if name == "one_hot":
        return bool((args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1)  # as many as values tell
    return name in SIZED_BY_VALUES or (name == "where" and len(args) + len(kwargs) == 1)


def for_copy(place: int) -> Callable[[Any], Any]:
    """What gives what a value is for one of `COPIES`.

    Args:
        place: Which.
    """
    return lambda value: value.seen.values[place] if isinstance(value, Known) and value.seen else value


def number_of(value: Any) -> Any:
    """A number instead of what stands for it, if it follows from sizes alone."""
    fixed = isinstance(value, Known) and value.seen is not None and not value.seen.loose
    return value.seen.values[0] if fixed and isinstance(value.seen.values[0], (int, float)) else value


def holds_tensors(value: Any) -> bool:
    """Whether a value is, or contains, a tensor."""
    found: list[Tensor] = []
    fx.node.map_aggregate(value, lambda part: found.append(part) if isinstance(part, Tensor) else None)
    return bool(found)


def reads_sizes(kind: str, target: Any) -> bool:
    """Whether sizes that a call is given may be those of other tensors, which change with these.

    Args:
        kind: What kind of call it is.
        target: What is called.
    """
    own = operation_at(target) if kind in ("call_function", "call_method") else UNKNOWN
    return own.moves or own.takes == "sizes"
