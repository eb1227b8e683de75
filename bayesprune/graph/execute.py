"""Run a traced forward pass node by node: whole, from some node on, or a single operation."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from torch import fx, nn

from bayesprune.ops.call import apply


class Execution:
    """Computes what the nodes of a traced forward pass give.

    A client that wants to see every value overrides `compute`, and one that calls something else than the node says
    overrides `call`.

    Args:
        net: The network whose modules and parameters the nodes name.
        graph: Its forward pass.

    Attributes:
        nodes: The operations, in the order in which they are computed.

    Examples:
        >>> import torch
        >>> from bayesprune.graph import trace
        >>> traced = trace(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Tanh()))
        >>> run = Execution(traced.net, traced.graph)
        >>> run.run({run.nodes[0]: torch.tensor([-1.0, 0.0])})
        tensor([0., 0.])
    """

    def __init__(self, net: nn.Module, graph: fx.Graph):
        self.net = net
        self.nodes: list[fx.Node] = list(graph.nodes)
        last = {source: node for node in self.nodes for source in node.all_input_nodes}
        self._done: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            self._done.setdefault(node, []).append(source)

    def compute(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """The value of a node that is no input.

        Args:
            node: The node.
            values: The values of the nodes that it reads.
        """
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.net)
        args = fx.node.map_arg(node.args, lambda source: values[source])
        kwargs = fx.node.map_arg(node.kwargs, lambda source: values[source])
        return args[0] if node.op == "output" else self.call(node, args, kwargs)

    def call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module, a function or a method gives.

        Args:
            node: The node that calls it.
            args: Its positional arguments, with values in the place of nodes.
            kwargs: Its arguments by name.
        """
        if node.op == "call_module":
            return self.net.get_submodule(str(node.target))(*args, **kwargs)
        return apply(node, args, kwargs)

    def run(self, given: Mapping[fx.Node, Any], after: fx.Node | None = None) -> Any:
        """The output of the pass; values that nothing reads any more are let go.

        Args:
            given: The values of the inputs, see `given_inputs`, and of any other nodes that are known already.
            after: The node behind which to begin, if everything up to it that is read later is known or an attribute.
        """
        values = dict(given)
        early = after is not None
        for node in self.nodes:
            if node not in values and (not early or node.op == "get_attr"):
                values[node] = self.compute(node, values)
            early = early and node is not after
            if not early:
                for source in self._done.get(node, ()):
                    values.pop(source, None)
        return values[self.nodes[-1]]

    def values(self, given: Mapping[fx.Node, Any]) -> dict[fx.Node, Any]:
        """The values of all nodes, given those of the inputs."""
        values = dict(given)
        for node in self.nodes:
            if node not in values:
                values[node] = self.compute(node, values)
        return values
