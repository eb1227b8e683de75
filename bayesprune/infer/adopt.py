"""Let the modules that a user holds become those of a smaller network."""

from __future__ import annotations

from torch import nn


def adopt(held: nn.Module, smaller: nn.Module) -> nn.Module:
    """Let ``held`` and the modules in it become what bears their names in ``smaller``; returns ``held``.

    Whoever holds the network, or one of its layers, goes on with the smaller one: parameters, buffers, settings and, of
    a branch that is only its by-pass now, the class are those of ``smaller``, whose own modules are not to be used any
    more. A module that several names share stays shared.

    Args:
        held: The network before.
        smaller: The network after, made of copies of its modules.
    """
    owners: dict[int, nn.Module] = {}  # by the module that they become
    taken: set[int] = set()

    def become(old: nn.Module | None, new: nn.Module) -> nn.Module:
        if id(new) in owners:
            return owners[id(new)]
        if old is None or id(old) in taken:
            return new
        try:
            old.__class__ = type(new)
        except TypeError:  # a class with another layout in memory
            return new
        owners[id(new)] = old
        taken.add(id(old))
        children = {name: child for name, child in new._modules.items() if child is not None}
        new._modules.update({name: become(old._modules.get(name), child) for name, child in children.items()})
        old.__dict__ = vars(new)
        return old

    return become(held, smaller)
