"""Dropout within attention whose rate Python decides by the mode of the network: in the graph it follows it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from bayesprune.conversion.modes import kept_in_eval
from bayesprune.conversion.source import owner_of, put
from bayesprune.data.inputs import Inputs, called
from bayesprune.graph import Traced
from bayesprune.graph.shapes import copies_of
from bayesprune.graph.untouched import untouched
from bayesprune.layers.rate import DropoutRate
from bayesprune.ops.call import argument

SEVERAL = 2
"""How many examples are passed in training mode, in which normalisations do not take one."""


def follow_rates(traced: Traced) -> None:
    """Let attention that has another rate of dropout in training mode be told it by a module that follows the mode.

    What the rates are is seen in one pass in training mode. If that does not call attention as often as the graph does,
    the rates are those of eval mode.

    Args:
        traced: The network, which can still be called itself; calls of its graph are changed in place.
    """
    told = [node for node in traced.graph.nodes if node.target is F.scaled_dot_product_attention]
    if traced.example is None or not any("dropout_p" in node.kwargs or len(node.args) > 4 for node in told):
        return
    rates = _in_training(traced.net, traced.example)
    for node, rate in zip(told, rates, strict=True) if len(rates) == len(told) else ():
        if rate and not argument(node, "dropout_p", 4, 0.0):
            name = put(traced, f"{owner_of(node)}.dropout_rate".removeprefix("."), DropoutRate(rate))
            with traced.graph.inserting_before(node):
                call = traced.graph.call_module(name, ())
            node.args, node.kwargs = node.args[:4], {**_by_name(node), "dropout_p": call}


def _by_name(node: fx.Node) -> dict[str, Any]:
    """What attention is given behind its mask, by name."""
    return {**dict(zip(("dropout_p", "is_causal"), node.args[4:], strict=False)), **node.kwargs}


def _in_training(net: nn.Module, example: Inputs) -> list[float]:
    """The rates of all calls of attention in training mode; none if the network does not take the example then.

    Args:
        net: The network.
        example: The example.
    """
    seen, kept = _Rates(), kept_in_eval(net)
    try:
        with torch.no_grad(), untouched(net):
            for module in net.modules():
                module.training = module not in kept
            with seen:
                called(net, copies_of(net, example, SEVERAL))
    except Exception:  # user code runs here: it may raise anything
        return []
    return seen.found


class _Rates(TorchFunctionMode):
    """Notes the rates that attention is called with within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function.

        Args:
            func: The function.
            types: Not used.
            args: What it is given by place.
            kwargs: What it is given by name.
        """
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.found.append(float(given.get("dropout_p", args[4] if len(args) > 4 else 0.0)))
        return func(*args, **given)
