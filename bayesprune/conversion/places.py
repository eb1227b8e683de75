"""Where gates may go: behind what works on single entries, and before what mixes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from bayesprune.graph import Analysis, Traced
from bayesprune.ops import operation_of
from bayesprune.ops.grouped import is_depthwise
from bayesprune.ops.sizes import is_shape


@dataclass(frozen=True)
class Place:
    """Where a gate for the outputs of a layer may go.

    Attributes:
        layer: Name of the layer.
        node: What it multiplies.
        size: Number of entries.
        dim: Dimension that they lie along.
        reason: Why a gate there would not mean removal, as far as this is known without trying.
    """

    layer: str
    node: fx.Node
    size: int
    dim: int
    reason: str = ""


def unit_places(traced: Traced, allowed: Callable[[str], bool]) -> list[list[Place]]:
    """The places of a gate for every group of entries that layers write, but for streams, to which several layers add.

    Where entries of several layers are multiplied with each other, the first of them is gated: what reads it, a
    squeeze-and-excitation say, then sees the zeros. Where what layers write is added up, and only then read, in one
    place, it is gated there. Those of a layer that is called more than once are gated wherever they are read.

    Args:
        traced: The network, without gates.
        allowed: Whether the outputs of the layer of this name may get a gate.
    """
    found = [places for places, is_stream in _written(traced) if not is_stream]
    return [places for places in found if all(allowed(place.layer) for place in places)]


def stream_places(traced: Traced, allowed: Callable[[str], bool]) -> list[list[Place]]:
    """For every stream the places behind all layers that add to it, which one gate must multiply.

    Args:
        traced: The network, without gates.
        allowed: Whether the outputs of the layer of this name may get a gate.
    """
    return [
        places
        for places, is_stream in _written(traced)
        if is_stream and len({(p.size, p.dim) for p in places}) == 1 and all(allowed(p.layer) for p in places)
    ]


def _written(traced: Traced) -> list[tuple[list[Place], bool]]:
    """For every group of entries the places behind the layers that write them, and whether the group is a stream.

    Args:
        traced: The network, without gates.
    """
    plan = Analysis(traced, {})
    one = plan.one
    sums: set[int] = set()
    stays = [""] * plan.num_ids
    for node, step in plan.steps.items():
        for features in map(plan.known.get, step.pins):
            for entry in [] if features is None else features.ids.tolist():
                stays[entry] = f"it {step.reason}"
        if operation_of(node, traced.module(node)).adds and len(step.flows) > 1 and step.out is not None:
            sums.update(one[step.out.ids].tolist())
    found: dict[int, list[Place]] = {}
    examples = of_examples(traced)
    for node in traced.graph.nodes:
        features = plan.known[node]
        module = traced.module(node)
        if features is None or module is None or not mixes(module) or is_depthwise(module):
            continue
        last = _chain_end(traced, node)
        ended = plan.known[last]
        if ended is None or len(ended) < 2 or last not in examples:
            continue
        place = Place(str(node.target), last, len(ended), ended.axis, max(stays[entry] for entry in ended.ids.tolist()))
        found.setdefault(int(one[features.ids[0]]), []).append(place)
    repeated = _several_times(traced, plan)
    groups: list[tuple[list[Place], bool]] = []
    for key, places in found.items():
        again, adds = key in repeated, key in sums
        exits = _exits(traced, plan, repeated.get(key, places[0].node), again) if again or adds else []
        if len(exits) > 1 and (not again or (adds and _adds_to(plan, exits))):
            exits = []
        behind = _behind(places, plan, exits) if examples.issuperset(exits) else []
        is_stream = adds and len(places) > 1 and not behind
        groups.append((behind or (places if again or adds else places[:1]), is_stream))
    return groups


def input_places(traced: Traced) -> list[Place]:
    """A place for the features or channels of every input that only layers read and whose shape is known.

    Args:
        traced: The network.
    """
    found = []
    for node in traced.graph.nodes:
        readers = [traced.module(user) for user in node.users]
        if node.op != "placeholder" or not readers or (traced.rank(node) or 0) < 2:
            continue
        if all(module is not None and mixes(module) for module in readers):
            dim = -1 if isinstance(readers[0], nn.Linear) else 1
            found.append(Place(node.name, node, traced.shapes[node][dim], dim))
    return [place for place in found if place.size > 1]


def of_examples(traced: Traced) -> set[fx.Node]:
    """The calls whose results have an entry of their first dimension for each example, so that each has its draws.

    Others follow from no example, or have several in one dimension: windows of all of them, say.
    """
    found: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or (not is_shape(node) and not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return {node for node in found if traced.shapes.get(node, torch.Size([1]))[:1] == (1,)}


def mixes(module: nn.Module) -> bool:
    """Whether a module is a layer whose outputs are entries of their own: weighted sums of those of its input."""
    parts = operation_of(module).parts
    weight = getattr(module, "weight", None)
    return parts is not None and "out" in parts(module).sizes.values() and weight is not None and weight.dim() > 1


def _several_times(traced: Traced, plan: Analysis) -> dict[int, fx.Node]:
    """By the first of the entries that layers which are called more than once read or give, a tensor with each once.

    What such a layer gives may hold several of them, for inner gates say, and what is read may be a stack of them.

    Args:
        traced: The network.
        plan: Its analysis.
    """
    met: set[int] = set()
    found: dict[int, fx.Node] = {}
    if not traced.repeated:
        return found
    read = [(each.node, False) for step in plan.steps.values() for each in step.reads]
    for source, again in [*read, *_of_repeated(traced, plan)]:
        features = plan.known[source]
        if features is not None:
            ids = plan.one[features.ids]
            met |= {int(ids[0])} if again else set()
            if len(ids.unique()) == len(ids):
                found.setdefault(int(ids[0]), source)
    return {key: node for key, node in found.items() if key in met}


def _of_repeated(traced: Traced, plan: Analysis) -> Iterator[tuple[fx.Node, bool]]:
    """What layers that are called more than once read and give, each with *True*.

    Args:
        traced: The network.
        plan: Its analysis.
    """
    for node in traced.graph.nodes:
        if node.op == "call_module" and str(node.target) in traced.repeated:
            yield from [(source, True) for source in (*(read.node for read in plan.steps[node].reads), node)]


def _exits(traced: Traced, plan: Analysis, node: fx.Node, apart: bool) -> list[fx.Node]:
    """The tensors but for zeros through which everything else reads the entries of one, all in the same order.

    Args:
        traced: The network.
        plan: Its analysis.
        node: One of the tensors with these entries.
        apart: Whether to give, instead of one that holds several of them, as a stack does, these.
    """

    def entries(node: fx.Node) -> Tensor | None:
        features = plan.known[node]
        return None if features is None else plan.one[features.ids]

    own = entries(node)
    assert own is not None
    known = {each: ids for each in traced.graph.nodes if each.op != "get_attr" and (ids := entries(each)) is not None}
    plain = [each for each in known if plan.known[each].layout == "plain"]  # type: ignore[union-attr]
    inside = {each for each in plain if torch.equal(known[each], own)}

    def leaves(each: fx.Node, user: fx.Node) -> bool:
        return user not in inside or any(read.node is each for read in plan.steps[user].reads)

    varying = [each for each in plain if each in inside and bool(plan.known[each].unknown.any())]  # type: ignore[union-attr]
    exits = {each for each in varying if any(leaves(each, user) and not is_shape(user) for user in each.users)}
    for each in reversed(varying) if apart else ():
        sources = {flow.node for flow in plan.steps[each].flows}
        if each in exits and operation_of(each, traced.module(each)).moves and inside.issuperset(sources):
            exits = exits - {each} | sources
    return [each for each in varying if each in exits]


def _adds_to(plan: Analysis, exits: Sequence[fx.Node]) -> bool:
    """Whether one of some tensors is a term of a sum with the same entries: then they are a stream.

    Args:
        plan: The analysis of the network.
        exits: The tensors.
    """
    sums = [user for each in exits for user in each.users if operation_of(user).adds]
    ends = [(plan.known[node], plan.known[exits[0]]) for node in sums]
    return any(a is not None and b is not None and torch.equal(plan.one[a.ids], plan.one[b.ids]) for a, b in ends)


def _behind(places: Sequence[Place], plan: Analysis, exits: Sequence[fx.Node]) -> list[Place]:
    """Places behind some tensors, in the stead of others; none if they do not lie along one dimension.

    Args:
        places: The others, of the same entries.
        plan: The analysis of the network.
        exits: The tensors.
    """
    known = [features for each in exits if (features := plan.known[each]) is not None]
    if not known:
        return []
    last = all(x.rank is not None and x.axis % x.rank == x.rank - 1 for x in known)
    dims = {-1 if last and len(known) > 1 else x.axis for x in known}
    if len(dims) != 1:
        return []
    (dim,), reason = dims, max(place.reason for place in places)
    return [replace(places[0], node=each, size=len(known[0]), dim=dim, reason=reason) for each in exits]


def _chain_end(traced: Traced, node: fx.Node) -> fx.Node:
    """The last operation behind a layer before entries are mixed, or read by several others."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        module, operation = traced.module(user), operation_of(user, traced.module(user))
        others = [source for source in user.all_input_nodes if source is not node]
        alone = all(source.op == "get_attr" for source in others) and str(user.target) not in traced.fixed
        passes = operation.pointwise or operation.kind == "normalisation" or is_depthwise(module)
        passes = passes or (bool(others) and (operation.adds or operation.kind == "product"))
        if not alone or not passes:
            break
        node = user
    return node
