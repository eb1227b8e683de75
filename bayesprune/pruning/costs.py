"""What a network costs: parameters, and multiply-adds for one example."""

from __future__ import annotations

from typing import Any

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.data.inputs import as_inputs, called, each, tensors_of
from bayesprune.errors import ConfigError
from bayesprune.graph.misfit import misfits_named
from bayesprune.layers import plain_parameters
from bayesprune.pruning.compaction import gated_network
from bayesprune.pruning.counter import counted
from bayesprune.pruning.meter import eval_mode
from bayesprune.types import Cost


@checked_arguments
def cost(model: nn.Module, example_input: Any = None) -> Cost:
    """Count parameters, and multiply-adds of matrix products and convolutions in eval mode.

    Gates cost nothing; a gated network costs what it has without them (branches that are off by the mode of their gates
    are not computed, and count as nothing in ``macs``). A Normal weight counts once, as its mean. The model's mode and
    statistics stay as they are.

    Args:
        model: Any network, gated or not, or a `BayesianNet`.
        example_input: Inputs, shape ``(B, ...)``, several in a tuple or a dict by name; the first example is used.
            ``None`` leaves ``macs`` uncounted.

    Raises:
        ConfigError: for an ``example_input`` without examples.
        DataError: for an ``example_input`` that the network does not take.
        TraceError: for an operation whose multiply-adds cannot be counted.
    """
    net = gated_network(model)
    params = sum(p.numel() for p in plain_parameters(net).values())
    if example_input is None:
        return Cost(params, None)
    x = as_inputs(example_input)
    if any(t.dim() == 0 or len(t) == 0 for t in tensors_of(x)):
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(x))
        raise ConfigError(f"cost: example_input must hold at least one example, got shape {shapes}")
    device = next((p.device for p in net.parameters()), x.device)
    x = each(x[:1], lambda t: t.to(device))
    with eval_mode(net), misfits_named(net, x, "cost"), counted() as counter:
        called(net, x)
    return Cost(params, counter.get_total_flops() // 2)
