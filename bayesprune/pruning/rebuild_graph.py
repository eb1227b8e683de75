"""The graph of a model file's network: its nodes call nothing but what files may hold.

torch generates Python code from a graph. What of a file gets into that code are literals, names of inputs and keyword
arguments, and paths of modules and tensors. Variables are named here; functions and methods are looked up in
`whitelist`.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from bayesprune.errors import CheckpointError
from bayesprune.pruning.codec import Decoder
from bayesprune.pruning.whitelist import ATTRIBUTES, FUNCTIONS, METHODS

LARGEST = 2**24
"""Up to where numbers are arguments of operations; slices may have larger ones."""
MOST_CHARACTERS = 200
RESERVED = {"self", "getattr", "slice", "len"}
"""What generated code reads besides its variables and the names of functions."""
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


def rebuild_graph(
    entries: list[Mapping[str, Any]], modules: Mapping[str, nn.Module], kinds: Mapping[str, str]
) -> fx.Graph:
    """The graph, its nodes named n0, n1, ...: the names in the file say which is meant, and no more.

    Args:
        entries: The operations.
        modules: The modules by name.
        kinds: The tensors that operations read.
    """
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    decode = Decoder(nodes, LARGEST)
    for entry in entries:
        if entry["name"] in nodes:
            raise CheckpointError(f"two operations are called {entry['name']!r}")
        op, target = entry["op"], entry["target"]
        args = tuple(decode(entry["args"]))
        kwargs = {_check_identifier(key): decode(value) for key, value in entry["kwargs"].items()}
        call = _target(op, target, args, modules, kinds)
        nodes[entry["name"]] = graph.create_node(op, call, args, kwargs, name=f"n{len(nodes)}")
    ends = [i for i, entry in enumerate(entries) if entry["op"] == "output"]
    if ends != [len(entries) - 1]:
        raise CheckpointError("the architecture does not end in an output")
    return graph


def _target(op: str, target: str, args: tuple[Any, ...], modules: Any, kinds: Any) -> str | Callable[..., Any]:
    """What a node calls or names, if it may.

    Args:
        op: What it is, in the words of ``torch.fx``.
        target: What it names.
        args: Its arguments.
        modules: The modules by name.
        kinds: The tensors that operations read.
    """
    if op == "call_function":
        call = FUNCTIONS.get(target)
        reads = call is getattr and not (len(args) == 2 and isinstance(args[0], fx.Node) and args[1] in ATTRIBUTES)
        if call is None or reads:
            raise CheckpointError(f"function {target!r} is not allowed in a model file")
        return call
    if op == "call_method":
        if target not in METHODS or not args or not isinstance(args[0], fx.Node):
            raise CheckpointError(f"method {target!r} is not allowed in a model file")
    elif op == "call_module":
        if target not in modules:
            raise CheckpointError(f"module {target!r} is not in the file")
    elif op == "get_attr":
        if target not in kinds:
            raise CheckpointError(f"tensor {target!r} is not in the file")
    elif op == "placeholder":
        if _check_identifier(target) in RESERVED or len(args) > 1 or any(isinstance(a, fx.Node) for a in args):
            raise CheckpointError(f"{target!r} is not allowed as an input in a model file")
    elif op != "output":
        raise CheckpointError(f"operation {op!r} is not allowed in a model file")
    return target


def inputs_of(graph: fx.Graph) -> set[str]:
    """The names of the inputs of a network."""
    return {str(node.target) for node in graph.nodes if node.op == "placeholder"}


def _check_identifier(name: Any) -> str:
    """``name`` if it is one that no code can hide in."""
    if not isinstance(name, str) or len(name) > MOST_CHARACTERS or not _IDENTIFIER.fullmatch(name):
        raise CheckpointError(f"{str(name)[:80]!r} is not allowed as a name in a model file")
    if keyword.iskeyword(name):
        raise CheckpointError(f"{name!r} is a word of Python, so it is not allowed as a name in a model file")
    return name
