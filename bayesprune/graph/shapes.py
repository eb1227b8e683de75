"""The shapes of all tensors of a traced forward pass, found with an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs, called, each, tensors_of
from bayesprune.errors import BayesPruneError, TraceError
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.graph.sizes_alone import sizes_alone
from bayesprune.graph.untouched import untouched
from bayesprune.layers import plain_parameters

DTYPE = "dtype"
"""Under what name a node's ``meta`` has the kind of numbers that it gives, once shapes are known."""


class _Shapes(Execution):
    """One pass that notes the shape of every tensor, and its kind of numbers."""

    def __init__(self, net: nn.Module, graph: fx.Graph):
        super().__init__(net, graph)
        self.found: dict[fx.Node, torch.Size] = {}

    def of(self, inputs: Inputs) -> dict[fx.Node, torch.Size]:
        """Go through the network with these inputs."""
        given = given_inputs(self.nodes, inputs)
        for node, value in given.items():
            self._note(node, value)
        self.run(given)
        return self.found

    def compute(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Compute one operation."""
        value = super().compute(node, values)
        self._note(node, value)
        return value

    def call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module, a function or a method gives, or zeros of its size."""
        if node.op == "call_module":
            return sizes_alone(self.net.get_submodule(str(node.target)), args, kwargs)
        return super().call(node, args, kwargs)

    def _note(self, node: fx.Node, value: Any) -> None:
        """Note what is known of a tensor.

        Args:
            node: What gives it.
            value: The tensor, or something else.
        """
        if isinstance(value, Tensor):
            self.found[node] = value.shape
            node.meta[DTYPE] = value.dtype


def copies_of(net: nn.Module, example: Inputs, count: int) -> Inputs:
    """So many copies of the first example, where the network is and of the kind of number of its parameters.

    Args:
        net: The network.
        example: Inputs.
        count: How many.

    Raises:
        TraceError: if there is none.
    """
    empty = [tuple(x.shape) for x in tensors_of(example) if x.dim() == 0 or len(x) == 0]
    if empty:
        raise TraceError(
            f"example_input of shape {empty[0]} has no example; pass inputs as those of training, (B, ...)"
        )
    like = next(iter(plain_parameters(net).values()), tensors_of(example)[0])
    one = each(example[:1], lambda x: x.to(like if x.is_floating_point() else like.device))
    return each(one, lambda x: torch.cat([x] * count))


def shapes_of(net: nn.Module, graph: fx.Graph, example: Inputs, copies: int = 1) -> dict[fx.Node, torch.Size]:
    """The shapes of all tensors for so many copies of the first example, in eval mode.

    Args:
        net: The network.
        graph: Its forward pass.
        example: Inputs; the first example of them is taken.
        copies: How often.

    Raises:
        TraceError: if they do not go through the network.
        GateError: if they do not fit a gate.
    """
    try:
        with torch.no_grad(), untouched(net):
            return _Shapes(net, graph).of(copies_of(net, example, copies))
    except BayesPruneError:
        raise
    except Exception as error:  # user code runs here: it may raise anything
        raise does_not_go(net, example, error) from error


def check_goes(net: nn.Module, example: Inputs) -> None:
    """Refuse examples that a network does not take.

    Args:
        net: The network.
        example: Inputs; the first example of them is taken.

    Raises:
        TraceError: if they do not go through it.
    """
    try:
        with torch.no_grad(), untouched(net):
            called(net, copies_of(net, example, 1))
    except Exception as error:  # user code runs here: it may raise anything
        raise does_not_go(net, example, error) from error


def first_line(error: Exception) -> str:
    """What an error says first, without a full stop."""
    return str(error).partition("\n")[0].rstrip(".")


def does_not_go(net: nn.Module, example: Inputs, error: Exception) -> TraceError:
    """What to say of an example that does not go through a network.

    Args:
        net: The network.
        example: The example.
        error: What was raised.
    """
    given = ", ".join(str(tuple(x.shape)) for x in tensors_of(example))
    return TraceError(
        f"example_input of shape {given} does not go through {type(net).__name__}: {first_line(error)}. Pass inputs "
        "as those of training, (B, ...)"
    )
