"""Let the modules that a user holds become those of a smaller network."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


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
