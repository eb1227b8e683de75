"""A network from its description in a model file, which may be forged: it can name nothing but tensor arithmetic.

Every path must lead to the module or tensor that the file declares under it, for code will read it (`rebuild_graph`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from bayesprune.errors import CheckpointError
from bayesprune.graph.additions import is_plain_name
from bayesprune.pruning.arithmetic import check_arithmetic
from bayesprune.pruning.codec import Decoder
from bayesprune.pruning.rebuild_graph import inputs_of, rebuild_graph
from bayesprune.pruning.whitelist import CLASSES, MODULES

MOST_NODES = 10_000
MOST_MODULES = 10_000
MOST_PARTS = 100_000
"""How many parts the names of all modules and tensors may have together."""
LARGEST_OPTION = 2**16
"""Up to where integers are arguments of modules, unless a tensor in the file has such a size."""


def rebuild(architecture: Any, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The network that `describe` described, with these tensors.

    Args:
        architecture: What `describe` gave, or what somebody made look like it.
        tensors: Parameters and buffers by name.

    Raises:
        CheckpointError: for anything that `describe` could not have written, or tensors that do not fit.
    """
    entries, kinds = architecture["modules"], architecture["tensors"]
    _check_sizes(entries, kinds, architecture["nodes"])
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    decode = Decoder({}, max(largest, LARGEST_OPTION))
    root = nn.Module()
    modules: dict[str, nn.Module] = {}
    with torch.device("meta"), _Unfilled():
        for entry in entries:
            module = _build(entry, decode, len(tensors))
            _compare(entry["name"], module, tensors)
            _place(root, entry["name"], module)
            modules[entry["name"]] = module
        for name, kind in kinds.items():
            _place_tensor(root, name, kind, torch.empty_like(tensors[name], device="meta"))
    graph = rebuild_graph(architecture["nodes"], modules, kinds)
    check_arithmetic(graph, modules)
    taken = sorted(graph.python_code("self").globals.keys() & inputs_of(graph))
    if taken:
        raise CheckpointError(f"{taken[0]!r} is not allowed as the name of an input in a model file")
    network = fx.GraphModule(root, graph, class_name="CompactNet")
    network.load_state_dict(dict(tensors), strict=True, assign=True)
    for part in network.modules():
        part.training = architecture["training"] is True
    for entry in entries:
        modules[entry["name"]].train(entry["training"] is True)
    _check_paths(network, modules, kinds)
    return network


def _check_sizes(entries: Any, kinds: Any, nodes: Any) -> None:
    """Refuse what would take long to build before any of it is built.

    Args:
        entries: The modules.
        kinds: The tensors that operations read.
        nodes: The operations.
    """
    for what, content, kind, most in (
        ("modules", entries, list, MOST_MODULES),
        ("tensors", kinds, dict, MOST_MODULES),
        ("nodes", nodes, list, MOST_NODES),
    ):
        if not isinstance(content, kind) or len(content) > most:
            raise CheckpointError(f"{what}: expected a {kind.__name__} of at most {most:,}")
    names = [entry["name"] for entry in entries] + list(kinds)
    if sum(_check_path(name).count(".") + 1 for name in names) > MOST_PARTS:
        raise CheckpointError(f"the names of modules and tensors have more than {MOST_PARTS:,} parts")


class _Unfilled(TorchFunctionMode):
    """No new tensor is filled with random numbers: those of the file take its place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


# modules and tensors --------------------------------------------------------------------------------------------------


def _build(entry: Mapping[str, Any], decode: Decoder, num_tensors: int) -> nn.Module:
    """The module that an entry names, of a class and with arguments that are allowed.

    Args:
        entry: What the file says of it.
        decode: Gives its arguments back.
        num_tensors: How many tensors the file has.
    """
    cls = CLASSES.get(entry["class"])
    if cls is None:
        raise CheckpointError(f"module class {entry['class']!r} is not allowed in a model file")
    arguments = {key: decode(value) for key, value in entry["arguments"].items()}
    if not arguments.keys() <= set(MODULES[cls]):
        raise CheckpointError(f"module {entry['name']!r} has arguments {sorted(arguments)}, not {sorted(MODULES[cls])}")
    if arguments.get("num_layers", 0) > num_tensors:
        raise CheckpointError(f"module {entry['name']!r} has more layers than there are tensors")
    return cls(**arguments)


def _compare(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a module whose tensors are not those of the file.

    Args:
        name: Where the module is.
        module: The module, without values.
        tensors: The tensors of the file.
    """
    for key, value in module.state_dict(prefix=f"{name}.").items():
        if key not in tensors or tensors[key].shape != value.shape:
            there = f"of shape {tuple(tensors[key].shape)}" if key in tensors else "not there"
            raise CheckpointError(f"tensor {key!r} is {there}, its module has one of shape {tuple(value.shape)}")


def _parent(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds ``name``, made where it does not exist, and the last part of the name.

    Args:
        root: The network.
        name: A path.
    """
    *parents, last = name.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root, last


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where it belongs.

    Args:
        root: The network.
        name: Where the module belongs.
        module: The module.
    """
    holder, last = _parent(root, name)
    if last in holder._modules:
        raise CheckpointError(f"two modules are called {name!r}")
    holder.add_module(last, module)


def _place_tensor(root: nn.Module, name: str, kind: str, tensor: Tensor) -> None:
    """Put a tensor that operations read where it belongs, unless a module has it.

    Args:
        root: The network.
        name: Where the tensor belongs.
        kind: Whether it is a ``"parameter"``.
        tensor: The tensor, without values.
    """
    holder, last = _parent(root, name)
    if last in holder.state_dict():
        return
    if kind == "parameter":
        holder.register_parameter(last, nn.Parameter(tensor))
    else:
        holder.register_buffer(last, tensor)


def _check_paths(network: nn.Module, modules: Mapping[str, nn.Module], kinds: Iterable[str]) -> None:
    """Refuse names that lead elsewhere when code reads them, as attributes that every module has do.

    Args:
        network: The whole network.
        modules: Its modules by the names that the file has for them.
        kinds: The names of tensors that operations read.
    """
    declared = {**modules, **{name: network.state_dict(keep_vars=True)[name] for name in kinds}}
    for name, part in declared.items():
        if attrgetter(name)(network) is not part:
            raise CheckpointError(
                f"{name!r} is not allowed as a name in a model file: all modules have such an attribute"
            )


def _check_path(name: Any) -> str:
    """``name`` if it can be that of a module or tensor."""
    if not isinstance(name, str) or not is_plain_name(name):
        raise CheckpointError(f"{str(name)[:80]!r} is not allowed as a name in a model file")
    return name
