"""A network's architecture as plain data: no code travels, only whitelisted names and plain arguments."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.errors import ConfigError
from bayesprune.graph import Traced
from bayesprune.ops import operation_of
from bayesprune.ops.call import argument
from bayesprune.ops.dropout import DROP_PATH
from bayesprune.ops.sizes import is_shape
from bayesprune.pruning.codec import encode
from bayesprune.pruning.whitelist import ATTRIBUTES, FUNCTION_NAMES, METHODS, MODULES

WARNING = "_stacklevel"
"""What `torch.nn.functional` gives its own softmax to say where a warning comes from."""
COMPARISONS: set[object] = {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}


def describe(traced: Traced, modes: Mapping[str, bool]) -> dict[str, Any]:
    """The architecture as nested dictionaries and lists of numbers, strings, booleans and ``None``.

    Args:
        traced: The network, traced in eval mode.
        modes: By module name, whether it is in training mode.

    Raises:
        ConfigError: for modules, functions or arguments that a model file cannot hold.
    """
    _drop_idle(traced)
    called = dict.fromkeys(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    modules = {name: traced.net.get_submodule(name) for name in called}
    foreign = [f"{name} ({type(module).__name__})" for name, module in modules.items() if type(module) not in MODULES]
    foreign += dict.fromkeys(filter(None, map(_foreign_call, traced.graph.nodes)))
    if foreign:
        raise ConfigError(
            f"save: a model file cannot hold {', '.join(foreign)}; replace them by standard torch.nn layers, or use "
            "torch.save or torch.export"
        )
    parameters = {name for name, _ in traced.net.named_parameters()}
    return {
        "training": modes[""],
        "modules": [
            {
                "name": name,
                "class": type(module).__name__,
                "arguments": _arguments(name, module),
                "training": modes[name],
            }
            for name, module in modules.items()
        ],
        "tensors": {
            str(node.target): "parameter" if node.target in parameters else "buffer"
            for node in traced.graph.nodes
            if node.op == "get_attr"
        },
        "nodes": [_describe_node(node) for node in traced.graph.nodes],
    }


def _drop_idle(traced: Traced) -> None:
    """Take out what does nothing in eval mode: stochastic depth, and assertions with what they look at.

    What they look at is as in ``torch._assert(x.dim() == 3, ...)``; where it would not hold, torch raises later.
    """
    graph = traced.graph
    for node in list(graph.nodes):
        drops = node.op == "call_function" and argument(node, "training", 3, True)
        if operation_of(node, traced.module(node)) is DROP_PATH and not drops:
            node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
            graph.erase_node(node)
    idle = [node for node in graph.nodes if node.target is torch._assert]
    while idle:
        node = idle.pop()
        if node.users:
            continue
        inputs = node.all_input_nodes
        graph.erase_node(node)
        idle += [i for i in inputs if is_shape(i) or i.target in COMPARISONS]


def _foreign_call(node: fx.Node) -> str:
    """A function, method or attribute that a model file cannot hold, as it is written."""
    if node.op == "call_method" and node.target not in METHODS:
        return f".{node.target}()"
    if node.op != "call_function":
        return ""
    if node.target is getattr and node.args[1] not in ATTRIBUTES:
        return f".{node.args[1]}"
    return "" if node.target in FUNCTION_NAMES else f"{getattr(node.target, '__name__', node.target)}()"


def _arguments(name: str, module: nn.Module) -> dict[str, Any]:
    """Constructor arguments that give a module like this one.

    Args:
        name: Where the module is.
        module: One of torch's own.
    """
    arguments = {}
    for key, attribute in MODULES[type(module)].items():
        value = attrgetter(attribute)(module)
        if "bias" in key and not isinstance(value, bool):
            value = value is not None  # whether there is one
        elif callable(value) and value in (F.relu, F.gelu):
            value = value.__name__  # what torch's transformer layers are given
        arguments[key] = encode(value, name)
    return arguments


def _describe_node(node: fx.Node) -> dict[str, Any]:
    target = FUNCTION_NAMES[node.target] if node.op == "call_function" else str(node.target)  # type: ignore[index]
    kwargs = {key: encode(value, node.name) for key, value in node.kwargs.items() if key != WARNING}
    return {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": encode(list(node.args), node.name),
        "kwargs": kwargs,
    }
