"""Calls that stand as data in the graph of a ``torch.fx.GraphModule``, so that their numbers can be rewritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from bayesprune.ops.literals import Literals, literals_of, with_literals


class Origin(NamedTuple):
    """Where a call stands: a node in the graph of a module, by their names."""

    module: str
    node: str


class Reader(fx.Interpreter):
    """Goes through the graph of a GraphModule while that is traced, and says which of its calls is met.

    Attributes:
        origin: The call; ``None`` where a module is called, whose forward pass may be written anywhere.

    Args:
        module: The GraphModule.
        tracer: What traces it.
    """

    def __init__(self, module: fx.GraphModule, tracer: fx.Tracer):
        super().__init__(module)
        self.tracer, self.path = tracer, tracer.path_of_module(module)
        self.origin: Origin | None = None

    def run_node(self, n: fx.Node) -> object:
        """Meet one call."""
        self.origin = Origin(self.path, n.name) if n.op in ("call_function", "call_method") else None
        return super().run_node(n)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A parameter, or a buffer, which would be computed with at once if it were fetched."""
        found = super().get_attr(target, args, kwargs)
        if not isinstance(found, Tensor):
            return found
        return self.tracer.create_proxy("get_attr", f"{self.path}.{target}".removeprefix("."), (), {})

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of the function, which would be traced through if it were called."""
        found: list[fx.Proxy] = []
        fx.node.map_aggregate((args, kwargs), lambda a: found.append(a) if isinstance(a, fx.Proxy) else None)
        if found:
            return self.tracer.create_proxy("call_function", target, args, kwargs)
        return super().call_function(target, args, kwargs)


def written(net: nn.Module, nodes: Iterable[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The calls whose numbers can be rewritten, and where each stands: alone, with the same numbers.

    Args:
        net: The network.
        nodes: All of its trace, with an ``"origin"`` in ``meta`` as far as they have one.
    """
    found: dict[fx.Node, Origin] = {node: node.meta["origin"] for node in nodes if node.meta.get("origin")}
    times = Counter(found.values())
    graphs = {path: {n.name: n for n in _graph(net, path).nodes} for path in {origin.module for origin in times}}
    at = {node: graphs[origin.module][origin.node] for node, origin in found.items() if times[origin] == 1}
    return {node: own for node, own in at.items() if own.target == node.target and _numbers(own) == _numbers(node)}


def rewrite(net: nn.Module, places: dict[fx.Node, fx.Node], literals: Literals) -> None:
    """Write other numbers into calls of a network, in place.

    Args:
        net: The network.
        places: What `written` gave for it.
        literals: The numbers, by call of its trace.
    """
    for node, numbers in literals.items():
        places[node].args = with_literals(places[node], numbers)
    for path in {node.meta["origin"].module for node in literals}:
        module = net.get_submodule(path)
        assert isinstance(module, fx.GraphModule)
        module.recompile()


def _numbers(node: fx.Node) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in literals_of(node)]


def _graph(net: nn.Module, path: str) -> fx.Graph:
    module = net.get_submodule(path)
    assert isinstance(module, fx.GraphModule)
    return module.graph
