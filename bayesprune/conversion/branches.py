"""Branches that are added to a by-pass, carved out of the graph so that they can be left out as a whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from torch import fx, nn

from bayesprune.conversion.places import mixes, of_examples
from bayesprune.conversion.source import put
from bayesprune.graph import Traced
from bayesprune.layers import Gate, Residual
from bayesprune.ops import operation_of
from bayesprune.ops.sizes import is_shape

RESIDUAL = "residual"
LINEAR = (
    Gate,
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)
"""What else a by-pass may be made of: in eval mode it is linear."""
APART = "sum", "difference", "product of matrices", "attention", "softmax"
"""Kinds of operations that are in no term of a sum whose other term begins elsewhere."""


@dataclass(frozen=True)
class Branch:
    """A sum of a branch and a by-pass that begin at one tensor.

    Attributes:
        add: The sum.
        start: What both are given.
        others: What the branch is given besides.
        body: The operations of the branch, in their order, the last of which is added.
        shortcut: Those of the by-pass, none for the identity.
        prefix: The name of the innermost module that holds all that these operations use.
    """

    add: fx.Node
    start: fx.Node
    others: tuple[fx.Node, ...]
    body: tuple[fx.Node, ...]
    shortcut: tuple[fx.Node, ...]
    prefix: str


def carve_branches(
    traced: Traced, allowed: Callable[[str], bool], theta: float, refused: Collection[str]
) -> dict[Gate, str]:
    """Make a `layers.Residual` of every branch that is added to a by-pass, inner ones first.

    Where the terms of a sum begin at different tensors, that of more weights is the branch, the other the by-pass.

    Args:
        traced: The network.
        allowed: Whether the layer of this name may be in a branch.
        theta: Initial inclusion probability.
        refused: Sums that stay what they are.

    Returns:
        The gates, with the sum that each stands at.
    """
    gates = {}
    for add in [node for node in traced.graph.nodes if operation_of(node).kind == "sum"]:
        finder = None if add.name in refused else _Finder(traced)
        branch = None if finder is None else finder.branch(add) or finder.term(add)
        if branch is not None and all(map(allowed, _layers(traced, branch.body))) and _alone(traced, branch):
            gates[_carve(traced, branch, theta)] = add.name
    return gates


class _Finder:
    """Finds branches in a graph as it is now.

    Args:
        traced: The network.
    """

    def __init__(self, traced: Traced):
        self.traced = traced
        self.order = {node: place for place, node in enumerate(traced.graph.nodes)}
        self.varies: set[fx.Node] = set()
        """What depends on an input."""
        self.examples = of_examples(traced)
        self.readers: dict[str, set[fx.Node]] = {}
        """Who reads a parameter or buffer, by its name."""
        for node in self.order:
            if node.op == "placeholder" or not self.varies.isdisjoint(node.all_input_nodes):
                self.varies.add(node)
            if node.op == "get_attr":
                self.readers.setdefault(str(node.target), set()).update(node.users)

    def branch(self, add: fx.Node) -> Branch | None:
        """The branch that a sum adds to a by-pass, if it does."""
        if add.kwargs or len(add.args) != 2 or not all(isinstance(term, fx.Node) for term in add.args):
            return None
        terms: list[fx.Node] = [*add.args]  # type: ignore[list-item]
        shapes = [self.traced.shapes.get(term) for term in terms]
        if terms[0] is terms[1] or shapes[0] != shapes[1]:
            return None
        for body, bypass in (terms, terms[::-1]):
            for start in _starts(self.traced, bypass):
                inside, beside = self._between(start, body, add), self._between(start, bypass, add)
                if not inside or beside is None or not _layers(self.traced, inside):
                    continue
                others = {source for node in inside for source in node.all_input_nodes} - inside - {start}
                found = [tuple(sorted(part, key=self.order.__getitem__)) for part in (others, inside, beside)]
                return Branch(add, start, found[0], found[1], found[2], _prefix([*found[1], *found[2]]))
        return None

    def term(self, add: fx.Node) -> Branch | None:
        """Of two terms of a sum that begin apart the one that is made by more weights, as a branch beside the other.

        It begins where others read what it is made of, or behind another sum; not at an input of the network.
        """
        terms = [term for term in add.args if isinstance(term, fx.Node)]
        shapes = {self.traced.shapes.get(term) for term in terms}
        if add.kwargs or len(set(terms)) != 2 or len(shapes) > 1 or not self.examples.issuperset(terms):
            return None
        found = {term: self._own(term, add) for term in terms}
        body = max(terms, key=lambda term: self._weights(found[term]))
        inside, start = found[body], next(term for term in terms if term is not body)
        others = {source for node in inside for source in node.all_input_nodes} - inside
        if not self._weights(inside) or any(source.op == "placeholder" for source in others):
            return None
        others.discard(start)
        parts = [tuple(sorted(part, key=self.order.__getitem__)) for part in (others, inside)]
        return Branch(add, start, parts[0], parts[1], (), _prefix(parts[1]))

    def _own(self, end: fx.Node, add: fx.Node) -> set[fx.Node]:
        """The operations that make a term and nothing else, none of which is a sum or a product of two matrices.

        Args:
            end: The term.
            add: The sum.
        """
        inside: set[fx.Node] = set()
        for node in reversed(list(self.order)[: self.order[end] + 1]):
            readers = self.readers[str(node.target)] if node.op == "get_attr" else set(node.users)
            kind = operation_of(node, self.traced.module(node)).kind
            apart = node.op == "placeholder" or kind in APART or isinstance(self.traced.module(node), Residual)
            if not apart and (readers == {add} if node is end else bool(readers) and inside.issuperset(readers)):
                inside.add(node)
        return inside

    def _weights(self, nodes: set[fx.Node]) -> int:
        """How many weights the layers among some operations have that make outputs of all inputs."""
        modules = [module for module in map(self.traced.module, nodes) if _is_weighted(module)]
        return sum(p.numel() for module in modules for p in module.parameters())

    def _between(self, start: fx.Node, end: fx.Node, add: fx.Node) -> set[fx.Node] | None:
        """The operations by which ``start`` becomes ``end``, and those of parameters alone that only these read.

        Args:
            start: The first tensor.
            end: The last one.
            add: What may read ``end``.

        Returns:
            The operations; ``None`` if others read what they give.
        """
        if start is end:
            return set()
        inside = self._way(start, end)
        closed = all(user in inside or (node is end and user is add) for node in inside for user in node.users)
        if end not in inside or not closed:
            return None
        left = [*inside]
        while left:
            for source in left.pop().all_input_nodes:
                readers = self.readers[str(source.target)] if source.op == "get_attr" else source.users
                if source not in inside and source not in self.varies and inside.issuperset(readers):
                    inside.add(source)
                    left.append(source)
        return inside

    def _way(self, start: fx.Node, end: fx.Node) -> set[fx.Node]:
        """What depends on ``start`` and what ``end`` depends on, without what only its sizes are in and others read.

        Args:
            start: The first tensor.
            end: The last one.
        """
        after, left = {end}, [end]
        while left:
            for source in left.pop().all_input_nodes:
                if source not in after and self.order[source] > self.order[start]:
                    after.add(source)
                    left.append(source)
        way, tensors = {start}, {start}
        for node in sorted(after, key=self.order.__getitem__):
            if not way.isdisjoint(node.all_input_nodes):
                way.add(node)
            if not tensors.isdisjoint(node.all_input_nodes) and not is_shape(node):
                tensors.add(node)
        way.remove(start)
        shared = way
        while shared:
            shared = {node for node in way - tensors if not way.issuperset(node.users)}
            way -= shared
        return way


def _starts(traced: Traced, bypass: fx.Node) -> Iterator[fx.Node]:
    """Where a by-pass may begin: at its end, or before layers that are linear in eval mode."""
    yield bypass
    while len(bypass.all_input_nodes) == 1:
        module = traced.module(bypass)
        if not _is_weighted(module) and not isinstance(module, LINEAR):
            break
        bypass = bypass.all_input_nodes[0]
        yield bypass


def _is_weighted(module: nn.Module | None) -> TypeGuard[nn.Module]:
    """Whether a module is a layer whose outputs are weighted sums of those of its input, and no table."""
    return module is not None and mixes(module) and not isinstance(module, (nn.Embedding, nn.EmbeddingBag))


def _layers(traced: Traced, nodes: Sequence[fx.Node] | set[fx.Node]) -> list[str]:
    """Names of the layers with weights among these calls."""
    modules = {str(node.target): traced.module(node) for node in nodes if node.op == "call_module"}
    return [name for name, module in modules.items() if module is not None and any(True for _ in module.parameters())]


def _alone(traced: Traced, branch: Branch) -> bool:
    """Whether the layers of a branch and its by-pass are called there alone, so that they can go with it.

    Args:
        traced: The network.
        branch: The branch.
    """
    inside = {*branch.body, *branch.shortcut}
    names = {*_layers(traced, inside)}
    return all(node in inside for node in traced.graph.nodes if node.op == "call_module" and node.target in names)


def _prefix(nodes: Sequence[fx.Node]) -> str:
    """The innermost module that holds all that these nodes name."""
    paths = [str(node.target).split(".")[:-1] for node in nodes if node.op in ("call_module", "get_attr")]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _carve(traced: Traced, branch: Branch, theta: float) -> Gate:
    """Put a block in place of a sum and its terms; gives its gate.

    Args:
        traced: The network.
        branch: The branch.
        theta: Initial inclusion probability.
    """
    body = _part(traced, branch, branch.body, "Branch")
    bypass = _part(traced, branch, branch.shortcut, "Bypass") if branch.shortcut else None
    block = Residual(body, bypass, theta=theta)
    name = put(traced, f"{branch.prefix}.{RESIDUAL}" if branch.prefix else RESIDUAL, block)
    with traced.graph.inserting_before(branch.add):
        call = traced.graph.call_module(name, (branch.start, *branch.others))
    branch.add.replace_all_uses_with(call)
    if branch.add in traced.shapes:
        traced.shapes[call] = traced.shapes[branch.add]
    for node in (branch.add, *reversed(branch.shortcut), *reversed(branch.body)):
        if not node.users:
            traced.graph.erase_node(node)
    return block.gate


def _part(traced: Traced, branch: Branch, nodes: Sequence[fx.Node], kind: str) -> nn.Module:
    """These operations as a module, which names what they use as seen from the branch's prefix.

    Args:
        traced: The network.
        branch: The branch.
        nodes: The operations.
        kind: What the class is called.
    """
    graph = fx.Graph()
    copies = {branch.start: graph.placeholder("x")}
    for place, other in enumerate(branch.others if nodes is branch.body else ()):
        copies[other] = graph.placeholder(f"other{place}")
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda source: copies[source])
        if node.op in ("call_module", "get_attr") and branch.prefix:
            copies[node].target = str(node.target).removeprefix(f"{branch.prefix}.")
    graph.output(copies[nodes[-1]])
    return fx.GraphModule(traced.net.get_submodule(branch.prefix), graph, class_name=kind)
