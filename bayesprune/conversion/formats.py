"""Kinds of numbers, and devices, that a forward pass reads of tensors: they are those of the inputs in every pass."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.conversion.known import Known, Seen

MADE_LIKE = {f"new_{f.__name__}": f for f in (torch.empty, torch.full, torch.ones, torch.zeros)}
"""Methods that make a tensor of the kind of another one, and the functions that do."""
MOVES = "to", "type_as"
"""Methods that give a tensor in another kind of numbers, or elsewhere."""
GIVEN = {"to", torch.arange, torch.eye, torch.linspace, *MADE_LIKE.values()}
"""What reads a kind of numbers again when it is called with one."""


class Formats:
    """What was read of tensors so far in the forward pass that is followed, and in those that it is called in.

    A kind of numbers that is written out cannot be told from one that was read, and is taken for it.

    Args:
        tracer: What follows it.
    """

    def __init__(self, tracer: fx.Tracer):
        self._tracer = tracer
        self._inputs: list[tuple[fx.Proxy, torch.dtype | None]] = []
        self._read: dict[torch.dtype, fx.Proxy] = {}

    def give(self, place: fx.Proxy, value: Any) -> None:
        """Note an input.

        Args:
            place: What stands for it.
            value: What it is for an example.
        """
        self._inputs.append((place, getattr(value, "dtype", None)))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A context in which a module is followed."""
        before = dict(self._read)
        try:
            yield
        finally:
            self._read = before

    def note(self, tensor: fx.Proxy, found: Any) -> None:
        """Note what was read of a tensor.

        Args:
            tensor: The tensor.
            found: Its kind of numbers, or another setting.
        """
        if isinstance(found, torch.dtype) and found.is_floating_point:
            self._read.setdefault(found, tensor)

    def read_again(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """What a call is given, with settings that are read in every pass.

        They are read of the first input that has them, or else of the tensor that they were read of. What is moved to
        another device stays where it is.

        Args:
            target: What is called.
            args: What it is given by place.
            kwargs: What it is given by name.
        """
        if target in MOVES:
            args = tuple(arg for arg in args if not isinstance(arg, torch.device))
            kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        elif isinstance(kwargs.get("device"), torch.device):
            kwargs = {**kwargs, "device": self._setting(self._inputs[0][0], "device")}
        return fx.node.map_aggregate((args, kwargs), self._kind) if target in GIVEN else (args, kwargs)  # type: ignore

    def _kind(self, value: Any) -> Any:
        """A kind of numbers as it is read in every pass."""
        if not isinstance(value, torch.dtype) or value not in self._read:
            return value
        inputs = [place for place, kind in self._inputs if kind == value]
        return self._setting(inputs[0] if inputs else self._read[value], "dtype")

    def _setting(self, tensor: fx.Proxy, name: str) -> fx.Proxy:
        """A setting of a tensor, as it is in every pass.

        Args:
            tensor: The tensor.
            name: What the attribute is called.
        """
        return self._tracer.create_proxy("call_function", getattr, (tensor, name), {})


def settings_of(values: Iterable[Any]) -> dict[str, Any] | None:
    """The settings of a tensor that is moved as soon as it is made, for it to be made there; ``None`` if not known.

    Args:
        values: What the call that moves it is given besides: kinds of numbers, devices, a tensor of the kind.
    """
    settings: dict[str, Any] = {}
    for value in values:
        if isinstance(value, torch.dtype):
            settings["dtype"] = value
        elif isinstance(value, torch.device):
            settings["device"] = value
        elif isinstance(value, Known) and value.seen is not None and isinstance(value.seen.values[0], Tensor):
            settings |= {"dtype": value.dtype, "device": value.device}
        elif not isinstance(value, bool):
            return None
    return settings


def changes_nothing(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Seen) -> bool:
    """Whether a method gives the very tensor, as far as kinds of numbers go that are none of integers.

    Args:
        target: The method.
        args: What it is given by place, the tensor first.
        kwargs: What it is given by name.
        seen: What it gives for examples.
    """
    before = args[0].seen if target in MOVES and isinstance(args[0], Known) else None
    kinds = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, torch.dtype)]
    same = before is not None and all(map(operator.is_, seen.values, before.values))
    return same and all(kind.is_floating_point for kind in kinds)  # a mask of another example may be of integers
