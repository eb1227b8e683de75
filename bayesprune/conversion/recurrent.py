"""Gates on the units of recurrent layers, which become one layer for each of torch's layers and directions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx, nn

from bayesprune.conversion.source import put
from bayesprune.graph import Traced
from bayesprune.layers import GRU, LSTM, RNN, Gate

GATED: dict[type[nn.Module], Any] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
ZEROS = torch.zeros, torch.zeros_like
SAME = "to", "cuda", "cpu", "detach", "contiguous", "requires_grad_", "double", "float"
"""Methods that leave zeros what they are."""


def forget_zeros(traced: Traced) -> None:
    """Let recurrent layers begin with zeros on their own where zeros are made for them.

    Args:
        traced: The network, changed in place.
    """
    for node in list(traced.graph.nodes):
        others = [*node.args[1:], *node.kwargs.values()]
        if type(traced.module(node)) in GATED and others and all(map(_are_zeros, others)) and node.args:
            given = node.all_input_nodes[1:]
            node.args, node.kwargs = node.args[:1], {}
            _drop_unread(traced.graph, given)


def put_units(
    traced: Traced, allowed: Callable[[str], bool], theta: float, refused: Collection[str]
) -> dict[Gate, str]:
    """Put a gate on the units of every recurrent layer whose states are not told from outside, nor its cells read.

    Args:
        traced: The network; the shapes of its tensors are known.
        allowed: Whether the module of this name may get a gate.
        theta: Initial inclusion probability.
        refused: Layers that get none: names of modules, with a layer and a direction behind them if there are several.

    Returns:
        The gates, with the layer of each.
    """
    gates: dict[Gate, str] = {}
    for node in list(traced.graph.nodes):
        module: Any = traced.module(node)
        name = str(node.target)
        if type(module) not in GATED or name in {*traced.fixed, *traced.repeated} or not allowed(name):
            continue
        wanted = [place for place in _places(name, module) if place not in refused]
        if wanted and _is_plain(traced, node, module):
            made = _divide(traced, node, module)
            for place in wanted:
                gates[_gate(traced, made[place], theta)] = place
    if gates and traced.example is not None:
        traced.learn_shapes(traced.example)
    return gates


def _places(name: str, module: Any) -> list[str]:
    """The names of the layers that one of torch's becomes.

    Args:
        name: What it is called.
        module: Torch's.
    """
    ends = ["", "_reverse"] if module.bidirectional else [""]
    found = [f"{name}.l{layer}{end}" for layer in range(module.num_layers) for end in ends]
    return found if len(found) > 1 else [name]


def _is_plain(traced: Traced, node: fx.Node, module: Any) -> bool:
    """Whether a call gives a layer a sequence for each example alone, and only outputs and their last are read.

    Args:
        traced: The network.
        node: The call.
        module: The layer.
    """
    alone = len(node.args) == 1 and not node.kwargs and traced.rank(node.all_input_nodes[0]) == 3
    return alone and module.hidden_size > 1 and not module.proj_size and _reads(node, module) is not None


def _are_zeros(value: Any) -> bool:
    """Whether a state is what it is anyway: none, or zeros made for this."""
    if isinstance(value, (tuple, list)):
        return all(map(_are_zeros, value))
    while isinstance(value, fx.Node) and value.op == "call_method" and value.target in SAME:
        value = value.args[0]
    return value is None or (isinstance(value, fx.Node) and value.target in ZEROS)


def _reads(node: fx.Node, module: Any) -> tuple[list[fx.Node], list[fx.Node]] | None:
    """The calls that give outputs and last outputs of a layer; ``None`` if anything else of it is read.

    Args:
        node: The call of the layer.
        module: The layer.
    """
    outputs, last = [], []
    for user in node.users:
        if user.target is not operator.getitem or user.args[0] is not node or user.args[1] not in (0, 1):
            return None
        if user.args[1] == 0:
            outputs.append(user)
        elif type(module) is not nn.LSTM:
            last.append(user)
        elif all(each.target is operator.getitem and each.args[1] == 0 for each in user.users):
            last += user.users
        else:
            return None
    return outputs, last


def _divide(traced: Traced, node: fx.Node, module: Any) -> dict[str, fx.Node]:
    """Let a layer of its own compute each layer and direction; gives the outputs of each, by its name.

    Args:
        traced: The network.
        node: The call of torch's layer.
        module: Torch's layer.
    """
    graph, (outputs, last) = traced.graph, _reads(node, module)  # type: ignore[misc]
    name, time, made = str(node.target), 1 if module.batch_first else 0, {}
    places, directions = _places(name, module), 2 if module.bidirectional else 1
    single = [_single(module, place) for place in range(len(places))]
    if len(places) > 1:
        traced.net.set_submodule(name, nn.Module())
    states: list[fx.Node] = []
    sequence: Any = node.args[0]
    with graph.inserting_before(node):
        for first in range(0, len(places), directions):
            if first and module.dropout:
                sequence = graph.call_module(put(traced, f"{name}.dropout", nn.Dropout(module.dropout)), (sequence,))
            found = []
            for place in range(first, first + directions):
                traced.net.set_submodule(places[place], single[place])
                turns = place > first
                read = graph.call_function(torch.flip, (sequence, (time,))) if turns else sequence
                given = graph.call_function(operator.getitem, (graph.call_module(places[place], (read,)), 0))
                made[places[place]] = given
                states.append(graph.call_function(torch.select, (given, time, -1)))
                found.append(graph.call_function(torch.flip, (given, (time,))) if turns else given)
            sequence = graph.call_function(torch.cat, (found, -1)) if len(found) > 1 else found[0]
        for each in outputs:
            each.replace_all_uses_with(sequence)
        for each in last:
            _give_states(graph, each, states)
    _erase(graph, node)
    _drop_unread(graph, states)
    return made


def _single(module: Any, place: int) -> nn.Module:
    """One layer and direction of a layer of torch's, with its weights.

    Args:
        module: Torch's.
        place: Which, in the order of their states.
    """
    layer, turns = divmod(place, 2) if module.bidirectional else (place, 0)
    end = f"_l{layer}" + ("_reverse" if turns else "")
    inputs = getattr(module, f"weight_ih{end}").shape[1]
    made = type(module)(inputs, module.hidden_size, device="meta", **_options(module))
    for name, _ in list(made.named_parameters()):
        setattr(made, name, getattr(module, name.replace("_l0", end)))
    return made.train(module.training)  # type: ignore[no-any-return]


def _options(module: Any) -> dict[str, Any]:
    """How a layer of torch's was made, but for its sizes."""
    own = {"nonlinearity": module.nonlinearity} if type(module) is nn.RNN else {}
    return {"bias": module.bias, "batch_first": module.batch_first, **own}


def _give_states(graph: fx.Graph, node: fx.Node, states: Sequence[fx.Node]) -> None:
    """Let what reads the last outputs of all layers and directions read those of the one that it picks.

    Args:
        graph: The graph, at the place of the layer.
        node: What gives them.
        states: They, one by one.
    """
    others = []
    for user in list(node.users):
        key = user.args[1] if user.target is operator.getitem else None
        picked, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if isinstance(picked, int) and all(part in (slice(None), ...) for part in rest):
            user.replace_all_uses_with(states[picked])
        else:
            others.append(user)
    if others:
        node.replace_all_uses_with(graph.call_function(torch.stack, (list(states),)), others.__contains__)


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Take out a call and what picked from what it gave; it has no other readers any more."""
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def _drop_unread(graph: fx.Graph, nodes: Sequence[fx.Node]) -> None:
    """Take out calls of functions and methods that nothing reads, and what they alone have read.

    Args:
        graph: The graph.
        nodes: Such calls, or others.
    """
    for node in nodes:
        if not node.users and node.op in ("call_function", "call_method") and node in graph.nodes:
            sources = node.all_input_nodes
            graph.erase_node(node)
            _drop_unread(graph, sources)


def _gate(traced: Traced, node: fx.Node, theta: float) -> Gate:
    """Put a gate on the units of a layer of one direction.

    Args:
        traced: The network.
        node: What takes outputs of what the layer gives.
        theta: Initial inclusion probability.
    """
    call = node.all_input_nodes[0]
    plain: Any = traced.module(call)
    gate = Gate(plain.hidden_size, dim=-1, per_batch=True, theta=theta)
    made = GATED[type(plain)](plain.input_size, plain.hidden_size, gate=gate, **_options(plain))
    for name, weight in plain.named_parameters():
        setattr(made, name, weight)
    traced.net.set_submodule(str(call.target), made.train(plain.training))
    node.op, node.target, node.args = "call_module", f"{call.target}.gate", (call,)
    return gate
