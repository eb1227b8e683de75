"""Any network in one call: gates on the outputs of layers and on branches, found by analysis."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from bayesprune.arguments import checked_arguments
from bayesprune.conversion.branches import RESIDUAL, carve_branches
from bayesprune.conversion.heads import put_heads
from bayesprune.conversion.lifting import lift
from bayesprune.conversion.places import Place, input_places, stream_places, unit_places
from bayesprune.conversion.rates import follow_rates
from bayesprune.conversion.recurrent import forget_zeros, put_units
from bayesprune.conversion.sizes import LEFT, put_sizes, written_apart
from bayesprune.conversion.source import check_model, followed, put_behind
from bayesprune.conversion.verifying import check_same
from bayesprune.data.inputs import as_inputs
from bayesprune.errors import ConfigError, GateError
from bayesprune.graph import Traced, gates_of, trace
from bayesprune.graph.check import refused_gates
from bayesprune.graph.coupling import coupled
from bayesprune.layers import Gate
from bayesprune.layers.gate import INITIAL_THETA

REASONS = 3
"""How many of the places that were tried a message names."""


@checked_arguments
def convert(
    model: nn.Module,
    *,
    units: bool = True,
    branches: bool = True,
    heads: bool = True,
    head_sizes: bool = False,
    inputs: bool = False,
    streams: bool = False,
    example_input: Any = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    theta: float = INITIAL_THETA,
) -> fx.GraphModule:
    """A gated copy of a network, found by analysis of its forward pass, with the same outputs in eval mode.

    Units and filters of a layer get a gate behind the normalisation, activation and dropout that follow it: where 0
    means removal. Channels around a depthwise convolution share one; a squeeze-and-excitation sees the zeros. What
    several layers add to and several read, a stream, gets none unless asked for. A branch that is added to a by-pass,
    or to another term of a sum, becomes a `layers.Residual`, which does not compute it when it is off. A place whose
    gate would not equal removal gets none; `structures` lists what is left.

    Modules keep their names, within a branch after the name of its block: ``layer1.0.conv1`` is
    ``layer1.0.residual.body.conv1``, and ``layer2.0.downsample`` of the by-pass
    ``layer2.0.residual.shortcut.downsample``. The gate of a layer ``conv1`` is called ``conv1_gate``. The graph is
    that of eval mode: dropout, stochastic depth and normalisations follow the network's mode, unless the model tells
    them another one for good; other Python conditions on it do not. What the model computes without gradient has none.
    Where conditions go by sizes, it is the graph for inputs of the example's. With an example, functions of layers
    become modules that train. A module that cannot be followed stays as it is, in a `layers.Whole`. Operations that
    work in place do so no more.

    Args:
        model: A network without gates; it is not touched.
        units: Whether to gate units and filters.
        branches: Whether to gate branches.
        heads: Whether to gate the heads of attention, where an example tells the shapes.
        head_sizes: Whether to gate features of keys, and of values, within heads, where an example tells the shapes:
            one gate for each index, which all heads of an attention share.
        inputs: Whether to gate the features or channels of inputs that layers read, where an example tells the shapes.
        streams: Whether to gate what several layers add to: one gate multiplies what each of them adds.
        example_input: Inputs, shape ``(B, ...)`` (several in a tuple, or a dict by name), that tell the shapes of all
            tensors; needed where removal depends on them.
        only: Names of modules, within which alone gates may go; none for everywhere.
        skip: Names of modules within which no gate may go.
        theta: Initial inclusion probability. Where it is 0.9, variational inference of a network with many gates in a
            row begins at 1 all the same (method page, "Deep networks").

    Examples:
        >>> import torch
        >>> net = convert(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        >>> list(gates_of(net))
        ['0_gate']

    Raises:
        ConfigError: for a network that has gates, is scripted, or has no module of a name in ``only`` or ``skip``.
        TraceError: if the forward pass cannot be followed, if the example does not go through it, or if on it, or on
            other values and another number of examples, the network gives other outputs than the model.
        GateError: if no place for a gate is found.
    """
    check_model(model)
    allowed = _allowed(model, only, skip)
    refused: dict[str, str] = {}
    source = followed(model, example_input, allowed)
    follow_rates(source)
    lift(source)
    forget_zeros(source)
    if head_sizes:
        source = written_apart(source, allowed)
    found = unit_places(source, allowed) if units else []
    found += [[place] for place in input_places(source)] if inputs else []
    found += stream_places(source, allowed) if streams else []
    left: dict[str, tuple[int, str]] = {}
    sizes = False  # gates within heads come when all others stand
    while True:
        traced, copies = source.copied()
        places = [[replace(place, node=copies[place.node]) for place in group] for group in found]
        origins = _put_gates(traced, places, theta, refused)
        if units:
            origins |= put_units(traced, allowed, theta, refused)
        parts = put_heads(traced, allowed, theta, refused) if heads else {}
        if sizes:
            parts |= put_sizes(traced, allowed, theta, refused)
        origins |= parts
        if branches:
            origins |= carve_branches(traced, allowed, theta, refused)
        if not origins and (sizes or not head_sizes):
            raise GateError(_nothing_found(model, refused))
        net = fx.GraphModule(traced.net, traced.graph, class_name=type(model).__name__)
        more = _refused(net, example_input, bool(parts), source.forms)
        if not more and head_sizes and not sizes:
            sizes = True
        elif not more:
            if example_input is not None:
                check_same(model, net, as_inputs(example_input))
            net.meta[LEFT] = left
            return _like(net, model)
        refused |= {origins[gate]: reason for gate, reason in more.items()}
        left |= {origins[gate]: (gate.size, reason) for gate, reason in more.items() if gate.within}


def _put_gates(
    traced: Traced, groups: Sequence[Sequence[Place]], theta: float, refused: dict[str, str]
) -> dict[Gate, str]:
    """Put a gate at every place for one; gives the gates, with the first layer that each is for.

    Args:
        traced: The network.
        groups: The places, those of one gate together.
        theta: Initial inclusion probability.
        refused: Layers that get none, with the reason; those that cannot have one are added.
    """
    gates = {}
    for places in groups:
        layer, reason = places[0].layer, max(place.reason for place in places)
        if reason:
            refused.setdefault(layer, reason)
        if layer in refused:
            continue
        gate = Gate(places[0].size, dim=places[0].dim, theta=theta)
        names: dict[str, str] = {}
        for place in places:
            names[place.layer] = put_behind(traced, place.node, names.get(place.layer, f"{place.layer}_gate"), gate)
        gates[gate] = layer
    return gates


def _refused(net: fx.GraphModule, example_input: Any, parts: bool, forms: dict[Any, Any]) -> dict[Gate, str]:
    """The gates that do not mean removal, with the reason.

    Args:
        net: The gated network.
        example_input: Tells the shapes.
        parts: Whether some gates are of heads, whose entries then need no gate of their own.
        forms: What is known of calls that move entries, see `graph.Traced`.
    """
    traced = trace(net, example_input)
    traced.forms = forms
    refused = {gate: str(error) for gate, error in refused_gates(traced).items()}
    if refused and not parts:
        return refused
    gates, alone = gates_of(net), not refused
    for group in coupled(traced):
        own = [gate for gate in map(gates.__getitem__, group.gates) if gate not in refused]
        if not group.can_go and alone:
            refused |= dict.fromkeys(own, f"it {group.reason}")
        elif group.can_go and group.size in [gate.size for gate in own]:
            finer = [gate for gate in own if gate.size > group.size]
            refused |= dict.fromkeys(finer, f"its entries go in {group.size} parts, which have a gate")
    return refused


def _allowed(model: nn.Module, only: Sequence[str], skip: Sequence[str]) -> Callable[[str], bool]:
    """Whether the layer of a name may get a gate.

    Args:
        model: The network.
        only: Modules within which it may; none for everywhere.
        skip: Modules within which it may not.
    """
    known = dict(model.named_modules())
    for name in (*only, *skip):
        if name not in known:
            raise ConfigError(f"convert: the model has no module {name!r}; see dict(model.named_modules())")

    def within(name: str, parts: Sequence[str]) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in parts)

    return lambda name: (not only or within(name, only)) and not within(name, skip)


def _nothing_found(model: nn.Module, refused: Mapping[str, str]) -> str:
    """What to say where no gate may go.

    Args:
        model: The network.
        refused: Places that were tried, with the reason.
    """
    tried = [f"{place!r}: {reason}" for place, reason in refused.items()][:REASONS]
    why = "; ".join(tried) or "no layer has units that others read, or the options leave none"
    return f"convert: found no place for a gate in {type(model).__name__}; {why}. Put gates by hand (layers)"


def _like(net: fx.GraphModule, model: nn.Module) -> fx.GraphModule:
    """The converted network, in the modes and on the device of the model.

    Args:
        net: The network.
        model: The model.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for gate in gates_of(net).values():
        gate.to(device)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in net.named_modules():
        module.training = modes.get(name, modes.get(_original(name), model.training))
    return net


def _original(name: str) -> str:
    """What a module of a converted network is called in the model."""
    return re.sub(rf"(^|\.)({RESIDUAL}\d*\.(body|shortcut)|whole)(?=\.|$)", "", name).removeprefix(".")
