"""Refuse gates in places where switching them off would not equal removing what they gate."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.errors import GateError, TraceError
from bayesprune.graph.additions import check_additions
from bayesprune.graph.memory import written
from bayesprune.graph.rules import OVERWRITTEN, Rules
from bayesprune.graph.tracer import GateTracer, block_graph
from bayesprune.graph.tracing import Traced, trace
from bayesprune.layers import Gate, Residual, gates_of
from bayesprune.ops import NEEDS_SHAPES, Features, Step, name_of, operation_of
from bayesprune.ops.call import tensors_read


def check_gates(net: nn.Module, *, example_input: Any = None) -> None:
    """Follow the constant that each gate leaves when it is off, and make sure that it can be removed or folded exactly.

    In a sum with something that the gate does not silence (a residual stream, say), 0 changes nothing: the entry stays
    as long as the other writer is there. A constant other than 0 would have to be carried on, and is refused.

    Where layers and gates along the first and the last dimension meet and no example tells the rank, tensors are taken
    for matrices ``(B, F)``; gates then refuse any other rank when they are called.

    Args:
        net: Gated network.
        example_input: Inputs, shape ``(B, ...)`` (several in a tuple, or a dict by name), that tell the shapes of all
            tensors; the first example is passed through the network. ``None`` to do without.

    Raises:
        GateError: for a network without a gate, a gate of the wrong size, or one whose constant reaches a
            normalisation, an output or an operation that is not known, or is not 0 in a sum with something that the
            gate does not silence; for an operation that works in place on the input of a residual block, or on what one
            with the identity as its by-pass gives.
        TraceError: for a network whose forward pass cannot be followed, or with hooks, parametrised weights and the
            like on its modules, see `check_additions`.
    """
    check_additions(net)
    gates = gates_of(net)
    if not gates:
        raise GateError(
            "the network has no gate, so there is nothing to prune; let bayesprune.convert(net) put them, or use "
            "bayesprune.layers (Linear(..., gate='unit'), Residual, Gate)"
        )
    if example_input is not None:
        for each in gates.values():
            each.rank = None
    traced = trace(net, example_input)
    _check_memory(net, traced)
    for error in refused_gates(traced).values():
        raise error


def refused_gates(traced: Traced) -> dict[Gate, GateError]:
    """The gates that cannot mean removal, with what `check_gates` says of each.

    Where ranks matter, the others learn the rank of what they may multiply.

    Args:
        traced: The gated network.

    Raises:
        TraceError: for a layer that does not fit its input.
    """
    called = {gate: name for name, gate in gates_of(traced.net).items()}
    names = dict(called)
    refused: dict[Gate, GateError] = {}
    only: dict[Gate, int] | None = None
    ranks: dict[Gate, int | None] = {}
    assumed = False
    while only is None or only:
        rules = Rules(traced, {}, only)
        known = _known(traced, rules)
        one = rules.following.one
        for node in traced.graph.nodes:
            gate, features = traced.gate(node), known[node]
            if gate is None or gate in rules.following.put_off or (only is not None and gate not in only):
                continue
            name, first = called[gate], names.pop(gate, None) is not None
            try:
                if gate.size == 1:
                    _check_sums(traced, node, name)
                if first:  # the first place where it is used; the walk meets the others
                    off = _first_off(gate, features, one)
                    _follow(traced, gate, rules.with_off({gate: off}), known, name)
                if features is not None and gate.size > 1:
                    ranks[gate] = _one_rank(ranks, gate, name, features.rank, assumed or rules.assumed)
            except GateError as error:
                refused.setdefault(gate, error)
        assumed = assumed or rules.assumed
        only = rules.following.put_off
    for gate, name in names.items():
        unused = f"gate {name!r} is not used in the forward pass; remove it, or call its module in forward"
        refused[gate] = GateError(unused)
    if assumed or traced.example is not None:
        for gate, rank in ranks.items():
            gate.rank = rank
    return refused


def _first_off(gate: Gate, features: Features | None, one: Tensor) -> Tensor:
    """The first entry of a gate off, with all of its entries that go together with it: alone they would stay."""
    off = torch.zeros(gate.size, dtype=torch.bool)
    off[0] = True
    return off if features is None or len(features) != gate.size else one[features.ids] == one[features.ids[0]]


def _known(traced: Traced, rules: Rules) -> dict[fx.Node, Features | None]:
    """What is known of every tensor with all gates on.

    Raises:
        TraceError: for a layer that does not fit its input.
    """
    known: dict[fx.Node, Features | None] = {}
    for node in traced.graph.nodes:
        try:
            known[node] = rules.step(node, known).out
        except TraceError as error:
            inputs = [known[i] for i in node.all_input_nodes]
            if not rules.assumed and all(x is None or x.rank is not None for x in inputs):
                raise
            raise TraceError(f"{error}; inputs were taken for (B, F): if they are not, {NEEDS_SHAPES}") from None
    return known


def _check_sums(traced: Traced, node: fx.Node, name: str) -> None:
    """Refuse a gate on a whole term of a sum that has another shape without it, as far as shapes are known."""
    for user in node.users:
        shape = traced.shapes.get(user)
        rest = [traced.shapes.get(i) for i in user.all_input_nodes if i is not node]
        if operation_of(user, traced.module(user)).adds and shape is not None and rest and rest[0] not in (None, shape):
            raise _refusal(
                name,
                f"is added to a tensor of shape {tuple(rest[0] or ())}, which the sum, of shape {tuple(shape)}, is not",
                "expand the other term to the shape of the sum",
            )


def _check_memory(net: nn.Module, traced: Traced) -> None:
    """Refuse operations that would write over the input of a residual block, which its by-pass reads or hands on."""
    residual = {name: module for name, module in net.named_modules() if isinstance(module, Residual)}
    inside = {f"{name}.body.": block.body for name, block in residual.items() if not _is_leaf(block.body)}
    for prefix, part in {"": net, **inside}.items():
        blocks = Traced(part, block_graph(part), {})
        for node in blocks.graph.nodes:
            block = blocks.module(node)
            if isinstance(block, Residual) and _hands_on(block.shortcut):
                for user in _writers(blocks, node):
                    what = f"what the residual block '{prefix}{node.target}' gives, without its branch its input"
                    raise _overwrites(user, what)
    bodies = [f"{name}.body" for name in residual]
    for node in traced.graph.nodes:
        for user in _writers(traced, node) if len(node.users) > 1 else []:
            name = str(user.target)
            if any(name == body or name.startswith(f"{body}.") for body in bodies):
                raise _overwrites(user, "the input of the branch that it begins, which the by-pass reads too")


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, Residual) or GateTracer().is_leaf_module(module, "")


def _hands_on(bypass: nn.Module) -> bool:
    """Whether a by-pass gives its input itself."""
    if isinstance(bypass, nn.Sequential):
        return all(map(_hands_on, bypass))
    return isinstance(bypass, nn.Identity)


def _writers(traced: Traced, node: fx.Node) -> list[fx.Node]:
    """What writes over the output of ``node``."""
    return [user for user in node.users if written(traced, user) is node]


def _overwrites(user: fx.Node, what: str) -> GateError:
    return GateError(
        f"{name_of(user)} works in place on {what}; use an operation that is not in place: torch.nn.ReLU() for "
        "torch.nn.ReLU(inplace=True)"
    )


def _one_rank(ranks: Mapping[Gate, int | None], gate: Gate, name: str, rank: int | None, assumed: bool) -> int | None:
    """The rank of what a gate multiplies wherever it does, ``None`` if there are several.

    Args:
        ranks: Those of gates met so far.
        gate: The gate.
        name: Its name, for messages.
        rank: The one that it meets now; ``None`` if it is unknown, and taken for that of a matrix.
        assumed: Whether any tensor was taken for a matrix.
    """
    rank = 2 if rank is None else rank
    if gate not in ranks or ranks[gate] == rank:
        return rank
    if assumed:
        raise GateError(f"gate {name!r} multiplies tensors of several ranks, some of them unknown; {NEEDS_SHAPES}")
    return None


def _follow(traced: Traced, gate: Gate, rules: Rules, known: dict[fx.Node, Features | None], name: str) -> None:
    """Walk on from where a gate is off for the first time, for as long as something is constant.

    Args:
        traced: The network.
        gate: The gate.
        rules: Rules with its first entry off, and what goes with it.
        known: What is known of every tensor with all gates on.
        name: The gate's name, for messages.
    """
    whole, uses = gate.size == 1, traced.uses[gate]
    changed: dict[fx.Node, Features] = {}
    waiting = rules.following.waiting
    node = uses[0].prev
    while node.op != "output":
        node = node.next
        read = node.all_input_nodes if traced.example is None else tensors_read(node, known, traced.shapes, waiting)
        touched = [i for i in read if i in changed]
        if not touched and node not in uses:
            continue
        step = rules.step(node, ChainMap({i: changed[i] for i in touched}, known))
        for source in touched:
            _check_step(traced, node, step, source, changed[source], name, whole)
        if node in uses and step.out is None and step.pins and not whole:
            raise _refusal(name, step.reason)
        if step.out is not None and not bool(step.out.unknown.all()):
            changed[node] = step.out


def _check_step(
    traced: Traced, node: fx.Node, step: Step, source: fx.Node, x: Features, name: str, whole: bool
) -> None:
    """Refuse the gate ``name`` if ``node`` does not let the constants of its input ``x`` go."""
    constant = ~x.unknown
    module = traced.module(node)
    operation = operation_of(node, module)
    if operation.kind == "normalisation":
        raise _refusal(
            name,
            f"comes before {node.target}, a {type(module).__name__}, which turns its zeros into that layer's bias and "
            "takes them into its statistics",
            "put a Gate after the normalisation and the activation, instead of a gate before it",
        )
    if source in step.pins and not (whole and operation.adds):
        raise _refusal(name, step.reason)
    for read in step.reads:
        if read.node is source and bool((read.must & constant).any()):
            level = float(x.value[constant][0])
            raise _refusal(name, f"leaves the constant {level:.4g} (what the activation makes of 0), and {read.reason}")
    for flow in step.flows:
        if flow.node is not source or step.out is None:
            continue
        lost = constant[flow.src] & step.out.unknown[flow.dst]
        if not bool(lost.any()):
            continue
        zeros = not bool((x.value[flow.src][lost] != 0).any())
        merges = sum(other.node is source for other in step.flows) > 1  # zeros stay in place among what becomes one
        if not operation.adds and not (zeros and merges):
            raise _refusal(name, f"leaves a constant that is not carried through {name_of(node)}")
        if not zeros:
            raise _refusal(name, "leaves a constant other than 0 in a sum with a tensor that it does not silence")


def _refusal(name: str, reason: str, advice: str = "") -> GateError:
    advice = advice or (
        "put the gate right after an activation with f(0) = 0 and before a Linear or an ordinary convolution "
        "(reshape with torch.flatten(x, 1))"
    )
    if NEEDS_SHAPES in reason:
        return GateError(f"gate {name!r}: what it gates {reason}")
    if OVERWRITTEN in reason:
        return GateError(f"gate {name!r}: what it gates {reason}; use an operation that is not in place")
    return GateError(
        f"gate {name!r}: what it gates {reason}; switched off it would not equal a removed structure. Instead, {advice}"
    )
