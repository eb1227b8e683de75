"""A copy of a model whose forward pass is a graph that gates may be put into."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from bayesprune.conversion.cells import write_cells
from bayesprune.conversion.following import Follower
from bayesprune.conversion.frozen import write_frozen
from bayesprune.conversion.inplace import work_out_of_place
from bayesprune.conversion.modes import DROPOUTS, FOLLOWS, keep_from_gradients, kept_in_eval, told_mode
from bayesprune.conversion.windows import write_windows
from bayesprune.conversion.written import write_out
from bayesprune.data.inputs import as_inputs
from bayesprune.errors import ConfigError, TraceError
from bayesprune.graph import Traced, check_additions, gates_of, trace
from bayesprune.graph.rules import MADE
from bayesprune.graph.tracing import fixed_modules
from bayesprune.layers import Gate, Whole


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be converted, before it is copied.

    Raises:
        ConfigError: for a network that has gates, or that TorchScript has compiled.
        TraceError: for one with hooks, parametrised or quantised weights and the like, see `check_additions`, and for
            one that keeps what it computed.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError("convert: the model is compiled by TorchScript; convert the module that it was compiled from")
    if callable(getattr(model, "gated_network", None)) or gates_of(model):
        raise ConfigError("convert: the network has gates already; pass one without, or go on with this one")
    check_additions(model, followed=True)
    for name, module in model.named_modules():
        for attribute, held in vars(module).items():
            if any(isinstance(leaf, Tensor) and leaf.grad_fn is not None for leaf in tree_leaves(held)):
                where = f"module {name!r}" if name else "the network"
                raise TraceError(
                    f"{where} keeps a tensor that it computed of its parameters or inputs, in {attribute!r}, which "
                    "would learn no more in a copy; empty it, which model.train() does in some, or pass the model "
                    "before its first pass"
                )


def followed(model: nn.Module, example_input: Any, allowed: Callable[[str], bool]) -> Traced:
    """A model in eval mode with its graph, in which nothing works in place and every call does something.

    Its modules and buffers are others than the model's; its parameters are the same, so it is there to be copied.

    Args:
        model: The model; it is not touched.
        example_input: As for `trace`.
        allowed: Whether gates may go into the module of this name.

    Raises:
        TraceError: if the forward pass of the model itself cannot be followed, or does not take the example; a module
            that cannot be followed stays whole.
    """
    net = copy.deepcopy(model, {id(held): held for held in model.parameters()}).eval()
    kept = kept_in_eval(net)
    write_windows(net)
    write_cells(net)
    write_out(net, allowed)
    _keep_buffers(net)
    traced = _traced(net, example_input, kept)
    work_out_of_place(traced)
    keep_from_gradients(traced)
    write_frozen(traced, kept)
    for node in list(traced.graph.nodes):
        if _hands_on(traced, node, kept):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            traced.graph.erase_node(node)
        elif node.target in DROPOUTS and node.meta.get(FOLLOWS, True):
            _dropout_module(traced, node)
        elif type(traced.module(node)) is nn.Unflatten:
            _write_sizes(traced, node)
    _keep_constants(traced)
    for node in reversed(traced.graph.nodes):
        if node.target is operator.getitem and not node.users:  # what is unpacked and not used
            traced.graph.erase_node(node)
    traced.written = {node: node for node in traced.graph.nodes if node.op in ("call_function", "call_method")}
    return traced


def _traced(net: nn.Module, example_input: Any, kept: Collection[nn.Module]) -> Traced:
    """A network with its graph, in which a `layers.Whole` is put around what cannot be followed.

    The graph is for inputs of all sizes, unless the forward pass decides something by them.
    Arguments that the example does not give are what they are by default, and are no inputs.

    Args:
        net: The network.
        example_input: As for `trace`.
        kept: Modules that are in eval mode for good.
    """
    example = None if example_input is None else as_inputs(example_input)
    follower = Follower(example, kept)
    traced = trace(net, example_input, follower)
    if follower.goes_by_sizes:  # nothing is lost by giving all of them
        follower = Follower(example, kept, sizes_given=True)
        traced = trace(net, example_input, follower)
    for name, why in follower.whole.items():
        for node in traced.graph.nodes:
            if str(node.target).startswith(f"{name}.") and node.op in ("call_module", "get_attr"):
                node.target = f"{name}.whole.{str(node.target).removeprefix(f'{name}.')}"
        whole = Whole(net.get_submodule(name))
        whole.reason = why
        net.set_submodule(name, whole)
    traced.fixed = fixed_modules(net, traced.graph)
    return traced


def _write_sizes(traced: Traced, node: fx.Node) -> None:
    """Let a call of a method do what a module does, so that its sizes can be rewritten.

    Args:
        traced: The network.
        node: The call.
    """
    module: Any = traced.module(node)
    if isinstance(module.dim, int):
        node.op, node.target = "call_method", "unflatten"
        node.args = (node.args[0], module.dim, tuple(module.unflattened_size))


def _keep_buffers(net: nn.Module) -> None:
    """Let all buffers be part of what is saved, as the graph may read any."""
    for module in net.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer)


def _hands_on(traced: Traced, node: fx.Node, kept: Collection[nn.Module]) -> bool:
    """Whether a call gives the tensor that it is given, in training as well.

    Args:
        traced: The network.
        node: The call.
        kept: Modules that are in eval mode for good.
    """
    module: Any = traced.module(node)
    if node.target in DROPOUTS:
        return not node.meta.get(FOLLOWS, True) and not told_mode(node)
    drops_none = type(module) in DROPOUTS.values() and (module.p == 0 or module in kept)
    return (type(module) is nn.Identity or drops_none) and len(node.args) == 1


def _dropout_module(traced: Traced, node: fx.Node) -> None:
    """Let a module do what a function does, so that it follows the mode of the network.

    Args:
        traced: The network.
        node: The call.
    """
    names = ("input", "p", "training", "inplace")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    inside = [*node.meta.get("nn_module_stack", {}).values()]
    place = f"{inside[-1][0]}.dropout" if inside and inside[-1][0] else "dropout"
    name = put(traced, place, DROPOUTS[node.target](float(given.get("p", 0.5))))  # type: ignore[index, arg-type]
    with traced.graph.inserting_before(node):
        call = traced.graph.call_module(name, (given["input"],))
    node.replace_all_uses_with(call)
    if node in traced.shapes:
        traced.shapes[call] = traced.shapes.pop(node)
    traced.graph.erase_node(node)


def _keep_constants(traced: Traced) -> None:
    """Make buffers of tensors that forward makes of buffers and numbers alone: they then move with the network.

    They are what they were when it was traced.
    """
    places: dict[str, str] = {}
    for node in traced.graph.nodes:
        made = str(node.target)
        if node.op != "get_attr" or not made.startswith(MADE) or not node.users:
            continue
        if made not in places:
            tensor = getattr(traced.net, made)
            delattr(traced.net, made)
            user = next(iter(node.users))
            path = str(user.target).rpartition(".")[0] if user.op == "call_module" else owner_of(user)
            places[made] = _free(traced, f"{path}.constant".removeprefix("."))
            holder, _, last = places[made].rpartition(".")
            traced.net.get_submodule(holder).register_buffer(last, tensor.detach())
        node.target = places[made]


def put(traced: Traced, name: str, module: nn.Module) -> str:
    """Add a module to a traced network.

    Args:
        traced: The network.
        name: Where it belongs; a number is added if something else is there.
        module: The module.

    Returns:
        Where it is.
    """
    free = _free(traced, name)
    path, _, last = free.rpartition(".")
    traced.net.get_submodule(path).add_module(last, module)
    return free


def _free(traced: Traced, name: str) -> str:
    """A name that nothing in a network has: this one, or this one with a number added.

    Args:
        traced: The network.
        name: The name.
    """
    path, _, last = name.rpartition(".")
    holder = traced.net.get_submodule(path)
    free, count = last, 1
    while hasattr(holder, free):
        count += 1
        free = f"{last}{count}"
    return f"{path}.{free}" if path else free


def put_behind(traced: Traced, node: fx.Node, name: str, gate: Gate) -> str:
    """Let a gate multiply what a call gives; gives what the gate is called.

    Args:
        traced: The network.
        node: The call.
        name: What it is to be called; a number is added if something else is there.
        gate: The gate.
    """
    path, _, last = name.rpartition(".")
    there = getattr(traced.net.get_submodule(path), last, None) is gate
    found = name if there else put(traced, name, gate)
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(found, (node,))
    node.replace_all_uses_with(call, lambda user: user is not call)
    if node in traced.shapes:
        traced.shapes[call] = traced.shapes[node]
    return found


def owner_of(node: fx.Node) -> str:
    """The module that a call calls, or that calls it if it calls a function."""
    if node.op == "call_module":
        return str(node.target)
    inside = [*node.meta.get("nn_module_stack", {}).values()]
    return str(inside[-1][0]) if inside else ""
