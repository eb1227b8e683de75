"""The plain, smaller PyTorch network that a gated network has become."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.graph import Traced, check_additions, gates_of, trace
from bayesprune.graph.memory import leaves_traces, own_memory
from bayesprune.layers import GATED_LAYERS, SCALES, Gate
from bayesprune.ops.operations import DIFFERENCES, SUMS
from bayesprune.pruning.fuse import fold_batch_norms, fuse_linear_maps
from bayesprune.pruning.redundant import drop_redundant
from bayesprune.pruning.shrink import kept_gates, shrink

PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    layer: next(base for base in layer.__mro__ if base.__module__.startswith("torch.nn.modules"))
    for layer in GATED_LAYERS
}


def gated_network(model: nn.Module) -> nn.Module:
    """What the method ``gated_network`` of ``model`` gives (it is a `BayesianNet`), or ``model`` itself."""
    inner = getattr(model, "gated_network", None)
    return inner() if callable(inner) else model


@checked_arguments
def compact(
    model: nn.Module,
    *,
    posterior: bool = False,
    fold_norms: bool = False,
    example_input: Any = None,
) -> nn.Module:
    """Remove every structure whose gate is off (θ ≤ ½) and every gate, leaving a plain PyTorch network.

    Its outputs are those of the gated network in eval mode (which uses the mode of its gates and the means of Gaussian
    slabs), up to rounding. ``model`` is not touched. Functions called with ``training=self.training`` are those of eval
    mode. A branch that is off is left out of a sum under the assumption that it has the shape of what it is added to.

    What removal leaves is simplified where values stay the same in either mode and nothing costs more. A ReLU of what
    is never negative goes, and so does every ``torch.nn.Identity``. Linear maps that follow one another become one (the
    by-passes of branches that are off, say), which bears the name of the last one; see `fuse_linear_maps`. All other
    parameters keep their names.

    Args:
        model: A `BayesianNet`, or a gated network.
        posterior: Whether to leave a smaller `BayesianNet` instead, with the gates that are on, their θ, and the
            posterior of the weights that are left, to go on predicting or training with. Nothing is simplified then.
        fold_norms: Whether to fold BatchNorms as well, each into the layer before it: for inference, as they then are
            as in eval mode for good.
        example_input: As for `check_gates`; ``None`` for that of the `BayesianNet`, if it was given one.

    Returns:
        A ``torch.fx.GraphModule`` of torch's own modules and functions alone, in the training mode of ``model``; or a
        `BayesianNet`.

    Raises:
        ConfigError: if ``posterior`` is asked of a network that is no `BayesianNet`.
        TraceError: if the forward pass cannot be followed, or if something was put on a module from outside (a hook,
            a parametrisation, ...) that would be lost.
        GateError: for a gate that does not fit what it gates.
    """
    net = gated_network(model)
    check_additions(net)
    check_additions(model)
    off = {name: gate.mode().detach().cpu() == 0 for name, gate in gates_of(net).items()}
    example = getattr(model, "example_input", None) if example_input is None else example_input
    smaller, index = shrink(net, off, may_empty=True, example_input=example)
    if posterior:
        return _smaller_posterior(model, smaller, kept_gates(net, index))
    modes = {name: module.training for name, module in smaller.named_modules()}
    traced = trace(smaller.eval())
    for node, module in [(node, traced.module(node)) for node in traced.graph.nodes]:
        if isinstance(module, Gate):
            _lower_gate(traced, node, module)
        elif isinstance(module, GATED_LAYERS):
            smaller.set_submodule(str(node.target), plain_layer(module))
    plain = fx.GraphModule(smaller, traced.graph, class_name="CompactNet")
    rest = Traced(plain, plain.graph, traced.fixed)
    plain.graph.eliminate_dead_code(lambda node: leaves_traces(rest, node))
    drop_redundant(rest)
    if fold_norms:
        fold_batch_norms(rest)
    fuse_linear_maps(rest)
    plain = fx.GraphModule(plain, plain.graph, class_name="CompactNet")  # of the modules that are left, in their order
    for name, part in plain.named_modules():
        part.training = modes.get(name, modes[""])
    return plain


def _smaller_posterior(model: Any, smaller: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """A copy of a `BayesianNet` that goes on with the gated network ``smaller``."""
    if not hasattr(model, "replace"):
        raise ConfigError(
            f"compact: posterior=True needs a BayesianNet, got a {type(model).__name__}; wrap the network: "
            "BayesianNet(net, ...)"
        )
    small = copy.deepcopy(model)
    small.replace(smaller, kept)
    return small.train(model.training)


@torch.no_grad()
def plain_layer(layer: nn.Module) -> nn.Module:
    """The torch layer that a gated layer is at the mode of its gates and the mean of its weights.

    Rows of gates that are off are 0.
    """
    plain = copy.copy(layer)
    plain.__dict__ = {
        key: copy.copy(value) if isinstance(value, dict) else value for key, value in layer.__dict__.items()
    }
    plain.__class__ = PLAIN[type(layer)]
    for name in SCALES:
        plain._parameters.pop(name, None)
    for name in ("draw", "_own", "handed"):
        plain.__dict__.pop(name, None)
    gate = plain._modules.pop("gate", plain.__dict__.pop("gate", None))
    if isinstance(gate, Gate) and not bool(gate.mode().all()):
        xi = gate.mode().to(layer.weight.dtype).expand(len(layer.weight))  # type: ignore[arg-type]
        for name, parameter in list(plain._parameters.items()):
            if parameter is not None:
                value = parameter * xi.view(-1, *[1] * (parameter.dim() - 1))
                plain._parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    return plain


def _lower_gate(traced: Traced, node: fx.Node, gate: Gate) -> None:
    """Replace a gate that stands alone by what it does at its mode."""
    source: Any = node.args[0]
    on = gate.mode().bool()
    with traced.graph.inserting_before(node):
        if gate.index is not None:
            source = traced.graph.call_function(
                torch.index_select, (source, gate.dim, _buffer(traced, node, "index", gate.index))
            )
        if gate.size == 1 and not bool(on):
            if _leave_sums(traced, node):
                return
            source = traced.graph.call_function(torch.mul, (source, 0.0))
        elif not bool(on.all()):
            last = traced.graph.call_function(torch.transpose, (source, gate.dim, -1))
            mask = _buffer(traced, node, "mask", on)
            source = traced.graph.call_function(
                torch.transpose, (traced.graph.call_function(torch.mul, (last, mask)), gate.dim, -1)
            )
    if source is node.args[0]:
        own_memory(traced, node)
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def _leave_sums(traced: Traced, node: fx.Node) -> bool:
    """Take a branch that is off out of every sum that it is added in; whether nothing else used it."""
    for user in list(node.users):
        if user.target in SUMS and len(user.args) == 2 and not user.kwargs:
            first, second = user.args
            rest = first if second is node else second
            if isinstance(rest, fx.Node) and rest is not node and (second is node or user.target not in DIFFERENCES):
                own_memory(traced, user)
                user.replace_all_uses_with(rest)
                traced.graph.erase_node(user)
    return not node.users


def _buffer(traced: Traced, node: fx.Node, kind: str, value: Tensor) -> fx.Node:
    """A node that gives a tensor, kept as buffer ``kind`` of an empty module in the place of the gate.

    A gate that belongs to a layer, too, gives its place up with it; the empty module then stands beside the network's
    own.
    """
    modules = dict(traced.net.named_modules())
    owner = modules[str(node.target).rpartition(".")[0]]
    place = f"{node.name}_{kind}" if isinstance(owner, tuple(PLAIN.values())) else str(node.target)
    if place not in modules or isinstance(modules[place], Gate):
        traced.net.set_submodule(place, nn.Module())
    traced.net.get_submodule(place).register_buffer(kind, value.clone())
    return traced.graph.get_attr(f"{place}.{kind}")
