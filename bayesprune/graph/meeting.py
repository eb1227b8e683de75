"""Functions that torch.fx does not let meet the values of a traced forward pass: ``len``, and what makes tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import unwrap
from typing import Any

import torch
from torch import fx, nn

MET = "arange", "cat", "concat", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "stack", "zeros"
"""Functions of torch that older versions do not let traced values meet where they stand for sizes or for several."""


def _meeting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, a call of which with traced values gives a traced value."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        met: list[fx.Proxy] = []
        fx.node.map_aggregate((args, kwargs), lambda a: met.append(a) if isinstance(a, fx.Proxy) else None)
        if met:
            return met[0].tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return call


@contextmanager
def functions_met(root: Any) -> Iterator[None]:
    """A context in which `MET`, and ``len`` wherever a forward pass of the network is written, meet traced values.

    Args:
        root: The network.
    """
    passes = {unwrap(type(module).forward) for module in root.modules()} if isinstance(root, nn.Module) else set()
    rooms = {id(room): room for each in passes if (room := getattr(each, "__globals__", None)) is not None}
    own = [room for room in rooms.values() if "len" not in room and not room.get("__name__", "").startswith("torch.")]
    plain = {name: getattr(torch, name) for name in MET}
    for room in own:
        room["len"] = _meeting(len)
    for name, function in plain.items():
        setattr(torch, name, _meeting(function))
    try:
        yield
    finally:
        for room in own:
            del room["len"]
        for name, function in plain.items():
            setattr(torch, name, function)
