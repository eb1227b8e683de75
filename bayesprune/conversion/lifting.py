"""Layers that are written as functions become modules: what their weights are computed from becomes those weights."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.conversion.frozen import NORM
from bayesprune.conversion.source import owner_of, put
from bayesprune.graph import Traced
from bayesprune.graph.execute import Execution
from bayesprune.ops import name_of, operation_of
from bayesprune.ops.sizes import is_shape

CALLS = "call_module", "get_attr"
CONVOLUTION = "input", "weight", "bias", "stride", "padding", "dilation", "groups"
BATCH_NORM = "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"
FREE = {
    *("add", "batch_norm", "cat", "detach", "div", "getitem", "layer_norm", "mean", "mul", "neg", "norm", "normalize"),
    *("rsqrt", "sqrt", "stack", "std", "std_mean", "sub", "truediv", "var", "var_mean", "vector_norm"),
}
"""What weights may be computed by so that weights of their own, trained freely, are no other kind of layer.

Reparametrisations, as standardised filters are, and nothing that leaves entries or signs as they are, as masks do."""


@dataclass(frozen=True)
class _Function:
    """A function that a module stands for.

    Attributes:
        names: What it is given, in the order of its parameters.
        tensors: Which of them, besides the first, are tensors of the module.
        made: Makes the module without its tensors, of the rank of the input, what is given, and shapes of tensors.
    """

    names: tuple[str, ...]
    tensors: tuple[str, ...]
    made: Callable[[int, Mapping[str, Any], Mapping[str, torch.Size]], nn.Module | None]


def _linear(rank: int, given: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> nn.Module:
    outputs, inputs = shapes["weight"]
    return nn.Linear(inputs, outputs, bias="bias" in shapes, device="meta")


def _convolution(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    def made(rank: int, given: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> nn.Module:
        outputs, inputs, *sides = shapes["weight"]
        options = {name: given[name] for name in CONVOLUTION[3:] if name in given}
        inputs *= options.get("groups", 1)
        return kind(inputs, outputs, tuple(sides), bias="bias" in shapes, device="meta", **options)

    return made


def _batch_norm(rank: int, given: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> nn.Module | None:
    tracks, affine = "running_mean" in shapes, "weight" in shapes
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if rank not in kinds or given.get("training", False) == tracks or affine != ("bias" in shapes) or not shapes:
        return None
    size = next(iter(shapes.values()))[0]
    options = {"eps": given.get("eps", 1e-5), "momentum": given.get("momentum", 0.1)}
    made = kinds[rank](size, **options, affine=affine, track_running_stats=tracks, device="meta")
    if tracks:
        made.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return made


def _layer_norm(rank: int, given: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> nn.Module:
    sides, affine = tuple(given["normalized_shape"]), "weight" in shapes
    return nn.LayerNorm(sides, given.get("eps", 1e-5), affine, "bias" in shapes, device="meta")


def _group_norm(rank: int, given: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> nn.Module | None:
    if not {"weight", "bias"} <= shapes.keys():
        return None
    return nn.GroupNorm(given["num_groups"], shapes["weight"][0], given.get("eps", 1e-5), device="meta")


FUNCTIONS: dict[Callable[..., Any], _Function] = {
    F.linear: _Function(("input", "weight", "bias"), ("weight", "bias"), _linear),
    F.conv1d: _Function(CONVOLUTION, ("weight", "bias"), _convolution(nn.Conv1d)),
    F.conv2d: _Function(CONVOLUTION, ("weight", "bias"), _convolution(nn.Conv2d)),
    F.conv3d: _Function(CONVOLUTION, ("weight", "bias"), _convolution(nn.Conv3d)),
    F.batch_norm: _Function(BATCH_NORM, BATCH_NORM[1:5], _batch_norm),
    F.layer_norm: _Function(("input", "normalized_shape", "weight", "bias", "eps"), ("weight", "bias"), _layer_norm),
    F.group_norm: _Function(("input", "num_groups", "weight", "bias", "eps"), ("weight", "bias"), _group_norm),
}


def lift(traced: Traced) -> None:
    """Put a module in the place of every function of a layer whose weights follow from parameters alone.

    Weights that are used as they are stay the same parameters, under the same names. Those that are reparametrised,
    such as standardised ones, are parameters from then on. Others that are computed, such as masked ones, go on being
    computed: the call stays what it is, but for a bias, which is added behind the layer.

    Args:
        traced: The network, changed in place.
    """
    constants = _Constants(traced)
    for node in list(traced.graph.nodes):
        function = FUNCTIONS.get(node.target) if node.op == "call_function" else None
        if function is not None:
            _lift(traced, node, function, constants)
    for node in reversed(traced.graph.nodes):
        if node in constants.found and not node.users:
            traced.graph.erase_node(node)


class _Constants(Execution):
    """What of a network follows from parameters and buffers alone."""

    def __init__(self, traced: Traced):
        super().__init__(traced.net, traced.graph)
        self.found: dict[fx.Node, set[fx.Node]] = {}
        """By node that gives such a value, the parameters and buffers that it follows from."""
        self.free: set[fx.Node] = set()
        """What of these may be trained in its own right."""
        for node in self.nodes:
            sources = [self.found.get(source) for source in node.all_input_nodes]
            if node.op == "get_attr":
                self.found[node] = {node}
                self.free.add(node)
            elif node.op in ("call_function", "call_method") and sources and None not in sources:
                self.found[node] = set().union(*sources)  # type: ignore[arg-type]
                if self._reparametrises(node):
                    self.free.add(node)

    def _reparametrises(self, node: fx.Node) -> bool:
        """Whether a call computes weights of parameters that are all trained, or none, by what is `FREE`."""
        held = [attrgetter(str(source.target))(self.net) for source in self.found[node]]
        alike = len({isinstance(each, nn.Parameter) and each.requires_grad for each in held}) == 1
        passes = is_shape(node) or operation_of(node).moves or name_of(node) in FREE
        return alike and passes and self.free.issuperset(node.all_input_nodes)

    def tensor(self, node: fx.Node, trained: bool) -> Tensor:
        """What such a node gives, as a parameter or buffer of a module: itself if it is one of the network's.

        Args:
            node: The node.
            trained: Whether it is to be a parameter.
        """
        if not trained:
            return self.value(node)  # type: ignore[no-any-return]
        found = self.value(node)
        if isinstance(found, nn.Parameter):
            return found
        return nn.Parameter(found.detach().clone(), requires_grad=found.requires_grad)

    def value(self, node: fx.Node) -> Any:
        """What such a node gives, with gradient where the network has one."""
        with torch.enable_grad():
            return self.compute(node, {source: self.value(source) for source in node.all_input_nodes})


def _lift(traced: Traced, node: fx.Node, function: _Function, constants: _Constants) -> None:
    """Put a module in the place of one call, if one stands for it.

    Args:
        traced: The network.
        node: The call.
        function: What it calls.
        constants: What follows from parameters alone.
    """
    given: dict[str, Any] = {**dict(zip(function.names, node.args, strict=False)), **node.kwargs}
    source = given.pop("input", None)
    parts = {name: given.pop(name) for name in function.tensors if isinstance(given.get(name), fx.Node)}
    behind = parts.get("bias") if node.target is F.linear and parts.get("bias") not in constants.free else None
    if behind is not None:
        del parts["bias"]
    known = constants.free.issuperset(parts.values())
    if source not in traced.shapes or not known or any(isinstance(value, fx.Node) for value in given.values()):
        return
    held = {part for own in parts.values() for part in constants.found[own]}
    if not held or not _alone(traced, node, held, constants):
        return
    tensors = {name: constants.tensor(part, name in ("weight", "bias")) for name, part in parts.items()}
    module = function.made(len(traced.shapes[source]), given, {name: t.shape for name, t in tensors.items()})
    if module is None:
        return
    for name, tensor in tensors.items():
        setattr(module, name, tensor)
    home = _home(node, [parts.get("weight"), *held])
    _like_owner(module, traced.net.get_submodule(home))
    place = _place(traced, home, module.eval(), held)
    with traced.graph.inserting_before(node):
        call = value = traced.graph.call_module(place, (source,))
        if behind is not None:
            value = traced.graph.call_function(operator.add, (call, behind))
    call.meta, value.meta = dict(node.meta), dict(node.meta)
    traced.shapes[call] = traced.shapes[value] = traced.shapes.pop(node)
    node.replace_all_uses_with(value)
    traced.graph.erase_node(node)


def _alone(traced: Traced, node: fx.Node, held: set[fx.Node], constants: _Constants) -> bool:
    """Whether parameters serve one call, and nothing else.

    Args:
        traced: The network.
        node: The call.
        held: The parameters.
        constants: What follows from parameters alone.
    """
    made = {each for each, sources in constants.found.items() if sources & held}
    targets = [str(part.target) for part in held]
    again = [each for each in constants.found if each.op == "get_attr" and each.target in targets and each not in held]
    owners = {target.rpartition(".")[0] for target in targets}
    called = any(each.op == "call_module" and each.target in owners for each in traced.graph.nodes)
    tensors = {id(attrgetter(target)(traced.net)) for target in targets}
    names = [name for name, p in traced.net.named_parameters(remove_duplicate=False) if id(p) in tensors]
    inside = all(user in made or user is node for each in made for user in each.users)
    return inside and not again and not called and len(names) <= len(tensors)


def _home(node: fx.Node, parts: Iterable[fx.Node | None]) -> str:
    """The name of the module that parameters are of, or that makes the call if they are of none.

    Args:
        node: The call.
        parts: Parameters and buffers, or what is computed from them.
    """
    owners = [str(part.target).rpartition(".")[0] for part in parts if part is not None and part.op == "get_attr"]
    return owners[0] if owners else owner_of(node)


def _like_owner(module: nn.Module, owner: nn.Module) -> None:
    """Let a normalisation follow its statistics as the one does whose call it stands for.

    Args:
        module: The module.
        owner: The module that its parameters are of.
    """
    if isinstance(module, NORM) and isinstance(owner, NORM) and owner.track_running_stats:
        module.num_batches_tracked = owner.num_batches_tracked
        if owner.momentum is None:  # the mean of all batches: in eval mode the function is told another one
            module.momentum = None


def _place(traced: Traced, home: str, module: nn.Module, held: set[fx.Node]) -> str:
    """Put a module where the layer was whose parameters it has, or within it; gives its name.

    Args:
        traced: The network.
        home: Where the layer was.
        module: The module.
        held: Parameters and buffers that it has, or that its own follow from.
    """
    owner = traced.net.get_submodule(home)
    read = {n for n in traced.graph.nodes if n.op == "get_attr" and str(n.target).rpartition(".")[0] == home}
    if not home or not isinstance(owner, type(module)) or not read <= held:
        return put(traced, f"{home}.{type(module).__name__.lower()}".removeprefix("."), module)
    for name, child in owner.named_children():
        inside = [n for n in traced.graph.nodes if n.op in CALLS and f"{n.target}.".startswith(f"{home}.{name}.")]
        moved = put(traced, f"{home}_{name}", child) if inside else ""
        for each in inside:
            each.target = moved + str(each.target).removeprefix(f"{home}.{name}")
    traced.net.set_submodule(home, module)
    return home
