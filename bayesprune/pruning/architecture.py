"""A network's architecture as plain data, and back: no code travels, only whitelisted names and plain arguments."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.graph import Traced
from bayesprune.pruning.whitelist import CLASSES, FUNCTION_NAMES, FUNCTIONS, METHODS, MODULES

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_]{1,200}(\.[A-Za-z0-9_]{1,200}){0,50}", re.ASCII)


# to data ------------------------------------------------------------------------------------------------------------


def describe(traced: Traced, modes: Mapping[str, bool]) -> dict[str, Any]:
    """The architecture as nested dictionaries and lists of numbers, strings, booleans and ``None``.

    Args:
        traced: The network, traced in eval mode.
        modes: By module name, whether it is in training mode.

    Raises:
        ConfigError: for modules, functions or arguments that a model file cannot hold.
    """
    called = dict.fromkeys(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    modules = {name: traced.net.get_submodule(name) for name in called}
    foreign = [f"{name} ({type(module).__name__})" for name, module in modules.items() if type(module) not in MODULES]
    foreign += [
        f"{node.target}"
        for node in traced.graph.nodes
        if node.op == "call_function" and node.target not in FUNCTION_NAMES
    ]
    foreign += [
        f".{node.target}()" for node in traced.graph.nodes if node.op == "call_method" and node.target not in METHODS
    ]
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


def _arguments(name: str, module: nn.Module) -> dict[str, Any]:
    """Constructor arguments that give a module like this one."""
    values = {key: getattr(module, key) for key in MODULES[type(module)]}
    return {key: _encode(value is not None if key == "bias" else value, name) for key, value in values.items()}


def _describe_node(node: fx.Node) -> dict[str, Any]:
    target = FUNCTION_NAMES[node.target] if node.op == "call_function" else str(node.target)  # type: ignore[index]
    kwargs = {key: _encode(value, node.name) for key, value in node.kwargs.items()}
    return {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": _encode(list(node.args), node.name),
        "kwargs": kwargs,
    }


def _encode(value: Any, where: str) -> Any:
    """An argument as data; nodes and tuples are marked."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (tuple, torch.Size)):
        return {"tuple": [_encode(v, where) for v in value]}
    if isinstance(value, list):
        return [_encode(v, where) for v in value]
    if isinstance(value, slice):
        return {"slice": [_encode(v, where) for v in (value.start, value.stop, value.step)]}
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"save: a model file cannot hold the argument {value!r} of {where}")


# from data ----------------------------------------------------------------------------------------------------------


def rebuild(architecture: Any, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The network that `describe` described, with these tensors.

    Every name is checked before a graph is made of it, for code is generated from a graph.

    Raises:
        CheckpointError: for anything that `describe` could not have written, or tensors that do not fit.
    """
    root = nn.Module()
    with torch.device("meta"):
        for entry in architecture["modules"]:
            _place(root, entry["name"], _build(entry))
        for name, kind in architecture["tensors"].items():
            _place_tensor(root, name, kind, torch.empty_like(tensors[name], device="meta"))
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for entry in architecture["nodes"]:
        if entry["name"] in nodes:
            raise CheckpointError(f"two operations are called {entry['name']!r}")
        nodes[entry["name"]] = _build_node(graph, root, entry, nodes)
    if not graph.nodes or list(graph.nodes)[-1].op != "output":
        raise CheckpointError("the architecture does not end in an output")
    network = fx.GraphModule(root, graph, class_name="CompactNet")
    network.load_state_dict(dict(tensors), strict=True, assign=True)
    modes = {entry["name"]: entry["training"] is True for entry in architecture["modules"]}
    for name, module in network.named_modules():
        module.training = modes.get(name, architecture["training"] is True)
    return network


def _build(entry: Mapping[str, Any]) -> nn.Module:
    cls = CLASSES.get(entry["class"])
    if cls is None:
        raise CheckpointError(f"module class {entry['class']!r} is not allowed in a model file")
    arguments = {key: _decode(value, {}) for key, value in entry["arguments"].items()}
    if set(arguments) != set(MODULES[cls]):
        raise CheckpointError(f"module {entry['name']!r} has arguments {sorted(arguments)}, not {sorted(MODULES[cls])}")
    return cls(**arguments)


def _parent(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds ``name``, made where it does not exist, and the last part of the name."""
    _check(_PATH, name)
    *parents, last = name.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root, last


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    holder, last = _parent(root, name)
    if last in holder._modules:
        raise CheckpointError(f"two modules are called {name!r}")
    holder.add_module(last, module)


def _place_tensor(root: nn.Module, name: str, kind: str, tensor: Tensor) -> None:
    holder, last = _parent(root, name)
    if last in holder.state_dict():
        return
    if kind == "parameter":
        holder.register_parameter(last, nn.Parameter(tensor))
    else:
        holder.register_buffer(last, tensor)


def _build_node(graph: fx.Graph, root: nn.Module, entry: Mapping[str, Any], nodes: Mapping[str, fx.Node]) -> fx.Node:
    name, op, target = entry["name"], entry["op"], entry["target"]
    _check(_IDENTIFIER, name)
    args = tuple(_decode(entry["args"], nodes))
    kwargs = {_check(_IDENTIFIER, key): _decode(value, nodes) for key, value in entry["kwargs"].items()}
    call: Any = target
    if op == "call_function":
        call = FUNCTIONS.get(target)
        if call is None or (call is getattr and args[1:] != ("shape",)):
            raise CheckpointError(f"function {target!r} is not allowed in a model file")
    elif op == "call_method":
        if target not in METHODS or not args or not isinstance(args[0], fx.Node):
            raise CheckpointError(f"method {target!r} is not allowed in a model file")
    elif op == "call_module":
        root.get_submodule(_check(_PATH, target))
    elif op == "get_attr":
        holder, _, last = _check(_PATH, target).rpartition(".")
        if last not in {**root.get_submodule(holder)._parameters, **root.get_submodule(holder)._buffers}:
            raise CheckpointError(f"tensor {target!r} is not in the file")
    elif op == "placeholder":
        _check(_IDENTIFIER, target)
    elif op != "output":
        raise CheckpointError(f"operation {op!r} is not allowed in a model file")
    return graph.create_node(op, call, args, kwargs, name=name)


def _check(pattern: re.Pattern[str], name: Any) -> str:
    """``name`` if it is one that no code can hide in."""
    if (
        not isinstance(name, str)
        or not pattern.fullmatch(name)
        or any(map(keyword.iskeyword, name.split(".")))
        or "__" in name[:2]
    ):
        raise CheckpointError(f"{str(name)[:80]!r} is not allowed as a name in a model file")
    return name


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """The argument that `_encode` wrote."""
    if isinstance(value, list):
        return [_decode(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    (kind, content), *rest = value.items()
    if rest or kind not in ("node", "tuple", "slice"):
        raise CheckpointError(f"an argument is marked {sorted(value)!r}")
    if kind == "node":
        return nodes[content]
    items = [_decode(v, nodes) for v in content]
    return tuple(items) if kind == "tuple" else slice(*items)
