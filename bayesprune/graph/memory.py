"""Which operations write over the memory of their inputs, and who else would see it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from bayesprune.graph.tracing import Traced
from bayesprune.ops import name_of, operation_of


def written(traced: Traced, node: fx.Node) -> fx.Node | None:
    """The tensor over which a call writes its result, if it does.

    Args:
        traced: The network.
        node: The call.
    """
    if node.op == "call_module":
        inplace = bool(getattr(traced.module(node), "inplace", False))
    elif node.op == "call_method":
        inplace = _says_in_place(str(node.target))
    elif node.op == "call_function":
        out = node.kwargs.get("out")
        if isinstance(out, fx.Node):
            return out
        name = name_of(node)
        inplace = node.target in operation_of(node).inplace or node.kwargs.get("inplace") is True
        inplace = inplace or (_says_in_place(name) and not hasattr(operator, name))  # as and_ is called there
    else:
        inplace = False
    return node.all_input_nodes[0] if inplace and node.all_input_nodes else None


def _says_in_place(name: str) -> bool:
    """Whether a function or method is called as those that write over their first argument."""
    return name.endswith("_") and not name.endswith("__")


def is_inplace(traced: Traced, node: fx.Node) -> bool:
    """Whether a call writes its result over a tensor that it is given.

    Args:
        traced: The network.
        node: The call.
    """
    return written(traced, node) is not None


def overwritten(traced: Traced, node: fx.Node) -> bool:
    """Whether something writes over the output of ``node``, or over a view of it, that something else reads.

    Args:
        traced: The network.
        node: The call.
    """
    found, views = False, [node]
    several = len(node.users) > 1
    while views:
        view = views.pop()
        several = several or len(view.users) > 1
        for user in view.users:
            if written(traced, user) is view:
                found = True
            elif is_view(traced, user):
                views.append(user)
    return found and several


def is_view(traced: Traced, node: fx.Node) -> bool:
    """Whether what ``node`` gives may be its input in another shape.

    Args:
        traced: The network.
        node: The call.
    """
    return operation_of(node, traced.module(node)).memory == "view"


def leaves_traces(traced: Traced, node: fx.Node) -> bool:
    """Whether what ``node``, whose result is not used, writes over may be read elsewhere: all views count as such.

    Args:
        traced: The network.
        node: The call.
    """
    if node.is_impure():
        return True
    target = written(traced, node)
    sources = [] if target is None else [target]
    while sources:
        source = sources.pop()
        if len(source.users) > 1 or source.op in ("placeholder", "get_attr"):
            return True
        if is_inplace(traced, source) or not is_fresh(traced, source):
            sources += source.all_input_nodes
    return False


def is_fresh(traced: Traced, node: fx.Node) -> bool:
    """Whether what ``node`` gives lies in memory of its own for sure, if it does not work in place.

    Args:
        traced: The network.
        node: The call.
    """
    return operation_of(node, traced.module(node)).memory == "own"


def own_memory(traced: Traced, node: fx.Node) -> None:
    """Let what reads ``node`` not write over it: without ``node`` it would write over what ``node`` was made of.

    Args:
        traced: The network.
        node: The call.
    """
    for user in list(node.users):
        if written(traced, user) is not node:
            continue
        module: Any = traced.module(user)
        plain: Any = operation_of(user).inplace.get(user.target)  # type: ignore[arg-type]
        name = name_of(user)
        if module is not None:
            module.inplace = False
        elif plain is not None:
            user.target = plain
        elif user.op == "call_method":
            user.target = name.rstrip("_")
        elif name.endswith("_"):
            user.target = getattr(torch, name.rstrip("_"), None) or getattr(torch.nn.functional, name.rstrip("_"))
        else:
            user.kwargs = {key: value for key, value in user.kwargs.items() if key not in ("inplace", "out")}
