"""Let the modules that a user holds become those of a smaller network, or again what they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

HOLDERS = ("_parameters", "_buffers", "_modules")


def adopt(held: nn.Module, smaller: nn.Module) -> nn.Module:
    """Let ``held`` and the modules in it become what bears their names in ``smaller``; returns ``held``.

    Whoever holds the network, or one of its layers, goes on with the smaller one: parameters, buffers, settings and, of
    a branch that is only its by-pass now, the class are those of ``smaller``, whose own modules are not to be used any
    more. A module that several names share stays shared, and where modules hold others otherwise than by name (in a
    plain list, say), they hold those that go on.

    Args:
        held: The network before.
        smaller: The network after, made of copies of its modules.
    """
    heirs: dict[int, nn.Module] = {}  # by the id of a module of ``smaller``, what goes on in its place
    taken: set[int] = set()

    def pair(old: nn.Module | None, new: nn.Module) -> None:
        if id(new) in heirs:
            return
        heirs[id(new)] = new
        if old is None or id(old) in taken:
            known: dict[str, nn.Module | None] = {}
        else:
            known = dict(old._modules)
            try:
                old.__class__ = type(new)
            except TypeError:  # a class with another layout in memory
                known = {}
            else:
                heirs[id(new)] = old
                taken.add(id(old))
        for name, child in new._modules.items():
            if child is not None:
                pair(known.get(name), child)

    modules = list(smaller.modules())
    pair(held, smaller)
    kept = [*smaller.parameters(), *smaller.buffers()]
    memo: dict[int, Any] = {**heirs, **{id(tensor): tensor for tensor in kept}}
    contents = [copy.deepcopy(list(vars(module).items()), memo) for module in modules]
    for module, attributes in zip(modules, contents, strict=True):
        heirs[id(module)].__dict__ = dict(attributes)
    return heirs[id(smaller)]


def remembered(net: nn.Module) -> Callable[[], None]:
    """Remember what the modules of ``net`` are and hold now, and the values of their parameters and buffers.

    Values are copied, but no module is: that takes far less time than a copy of the network.

    Returns:
        A function that lets the same modules be that again, without gradients, also if one of them has followed a
        smaller one by `adopt` since.
    """
    held = [
        (module, type(module), {k: dict(v) if k in HOLDERS else v for k, v in vars(module).items()})
        for module in net.modules()
    ]
    values = [(tensor, tensor.detach().clone()) for tensor in (*net.parameters(), *net.buffers())]

    def back() -> None:
        for module, kind, contents in held:
            module.__class__ = kind
            module.__dict__ = dict(contents)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
                tensor.grad = None

    return back
