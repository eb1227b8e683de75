"""Whether a converted network gives the outputs of its model: the last look before it is handed over."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bayesprune.data.inputs import Inputs, called
from bayesprune.errors import TraceError
from bayesprune.graph.untouched import untouched
from bayesprune.layers import gates_of

ROUNDING = 1e4
"""By how many units in the last place of the largest output others may differ, as operations come in another order."""


def check_same(model: nn.Module, net: nn.Module, example: Inputs) -> None:
    """Refuse a network that gives other outputs than its model in eval mode with all gates on.

    They are compared on two examples, the first and before it the same with numbers negated, and then on the first
    alone, where the model takes them. Copies with the same weights are run, so that neither changes; both meet the same
    random numbers.

    Args:
        model: The model.
        net: The converted network.
        example: Inputs.

    Raises:
        TraceError: if they differ.
    """
    own, converted = _copy(model), _copy(net)
    for gate in gates_of(converted).values():
        gate.theta = nn.Parameter(torch.ones_like(gate.theta))
    for inputs in (_mapped(example[:1], _with_another), example[:1]):
        try:
            expected = _outputs(own, inputs)
        except Exception:  # user code runs here: it may raise anything
            continue
        found = _outputs(converted, inputs)
        if len(found) != len(expected) or any(not _same(a, b) for a, b in zip(found, expected, strict=True)):
            raise TraceError(
                f"convert: what was followed of {type(model).__name__} gives other outputs than the model. Its forward "
                "pass may go by what tensors hold, keep something from one call to the next, draw random numbers, or "
                "write over what it reads again; put the layers around what does so into a module, and convert that"
            )


def _copy(net: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, with the same parameters."""
    return copy.deepcopy(net, {id(p): p for p in net.parameters()}).eval()


def _mapped(x: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """Inputs, each as a function gives it."""
    return function(x) if isinstance(x, Tensor) else x.map(function)


def _with_another(x: Tensor) -> Tensor:
    """An example, and before it the same with numbers negated that are no integers."""
    return torch.cat([-x if x.is_floating_point() else x, x])


def _outputs(net: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors that a network gives; of torch's transformer layers, as they compute while training."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), untouched(net, seed=0):
            given = called(net, _mapped(inputs, torch.clone))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)]


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether outputs differ by no more than rounding."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not found.is_floating_point():
        return True
    largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()) if expected.numel() else 0.0
    slack = ROUNDING * torch.finfo(expected.dtype).eps * largest
    return torch.allclose(found, expected, rtol=0, atol=slack, equal_nan=True)
