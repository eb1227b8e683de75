"""The shapes of all tensors of a traced forward pass, found with an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs, each, tensors_of
from bayesprune.errors import BayesPruneError, TraceError
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
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

    def _note(self, node: fx.Node, value: Any) -> None:
        """Note what is known of a tensor.

        Args:
            node: What gives it.
            value: The tensor, or something else.
        """
        if isinstance(value, Tensor):
            self.found[node] = value.shape
            node.meta[DTYPE] = value.dtype


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
    like = next(iter(plain_parameters(net).values()), tensors_of(example)[0])
    modes = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            one = each(example[:1], lambda x: x.to(like if x.is_floating_point() else like.device))
            inputs = each(one, lambda x: torch.cat([x] * copies))
            return _Shapes(net.eval(), graph).of(inputs)
    except BayesPruneError:
        raise
    except Exception as error:  # user code runs here: it may raise anything
        given, why = ", ".join(str(tuple(x.shape)) for x in tensors_of(example)), str(error).partition("\n")[0]
        raise TraceError(
            f"example_input of shape {given} does not go through {type(net).__name__}: {why}. Pass inputs as those of "
            "training, (B, ...)"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
