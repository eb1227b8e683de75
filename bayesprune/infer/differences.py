"""Exact paired differences for all gates at once: what the data say about each structure, given the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.data.inputs import Inputs
from bayesprune.errors import DataError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer.evaluation import BatchObjective
from bayesprune.infer.flips import UnitFlips
from bayesprune.infer.net import BayesianNet
from bayesprune.infer.targets import Targets
from bayesprune.layers import eval_mode


@torch.no_grad()
@checked_arguments
def paired_differences(
    net: BayesianNet, x: Inputs, y: Targets, xi: Tensor, on: Sequence[bool] | None = None
) -> tuple[Tensor, Tensor]:
    """C(ξ_s=1) − C(ξ_s=0) for every gate s, the other gates as in ξ, in eval mode.

    With Gaussian slabs all are computed with one draw of the weights.

    Since L is multilinear in θ, its mean over ξ ~ Bern(θ) is ∂L/∂θ_s − ρ_s exactly, for gates at 0 and 1 too: an
    unbiased estimate with no more noise than the examples bring. It takes up to S partial forward passes of the batch,
    each from the flipped gate on and without the examples in which the flip changes nothing, so it is for now and then,
    not for every step.

    Args:
        net: The network.
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        xi: Gate values, shape ``(1, S)`` or ``(B, S)``.
        on: Which of the branch gates are on in ``xi``, where the host knows, see `BayesianNet.forward`.

    Returns:
        Mean difference and its standard error over examples (0 for a single one, of which it is not known), each of
        shape ``(S,)``, nats per example.

    Raises:
        DataError: for inputs that the network does not take, and for gate values or flags of another number.
    """
    with misfits_named(net.net, x, "paired_differences"):
        differences, _ = example_differences(net, x, y, xi, on)
    correction = min(1, len(x) - 1)
    return differences.mean(1), differences.std(1, correction=correction) / len(x) ** 0.5


@torch.no_grad()
@checked_arguments
def shared_differences(net: BayesianNet, x: Inputs, y: Targets, xi: Tensor, on: Sequence[bool] | None = None) -> Tensor:
    """The mean differences of `paired_differences` for the gates that a batch shares alone, shape ``(num_shared,)``.

    Args:
        net: As for `paired_differences`, and so are all others.
        x: As there.
        y: As there.
        xi: As there.
        on: As there.
    """
    wanted = torch.arange(net.num_gates) < net.num_shared
    with misfits_named(net.net, x, "shared_differences"):
        return example_differences(net, x, y, xi, on, wanted)[0][: net.num_shared].mean(1)


@torch.no_grad()
def example_differences(
    net: BayesianNet, x: Inputs, y: Targets, xi: Tensor, on: Sequence[bool] | None = None, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The differences of `paired_differences` example by example, for all gates or some.

    Args:
        net: As for `paired_differences`.
        x: As there.
        y: As there.
        xi: As there.
        on: As there.
        wanted: For which gates, bool, shape ``(S,)``; ``None`` for all.

    Returns:
        The differences, shape ``(S, B)``, 0 for the other gates; and for each gate with how many examples it was
        flipped and computed, shape ``(S,)``: where nothing changes nothing is computed.
    """
    wanted = torch.ones_like(net.theta, dtype=torch.bool) if wanted is None else wanted
    shared, device = wanted[: net.num_shared].nonzero()[:, 0].tolist(), net.theta.device
    with eval_mode(net), net.drawn_weights():
        _check_gates(net, x, xi, on)
        found, pairs = None, torch.zeros(net.num_gates, dtype=torch.long, device=device)
        if bool(wanted[net.num_shared :].any()):
            found, pairs = UnitFlips(net, x, y, xi.expand(len(x), -1)).differences(wanted.to(device))
        if shared:
            objective = BatchObjective(net, x, y, on=on)
            base = objective(xi, skip=True, watch=shared)
            found = base.new_zeros(net.num_gates, len(x)) if found is None else found
            for s in shared:
                found[s], pairs[s] = (base - objective.flipped(s)) * (2 * xi[0, s] - 1), len(x)
    return (net.theta.new_zeros(net.num_gates, len(x)) if found is None else found), pairs


def _check_gates(net: BayesianNet, x: Inputs, xi: Tensor, on: Sequence[bool] | None) -> None:
    """Raise unless gate values and flags are those of this network for these inputs."""
    if xi.shape not in ((1, net.num_gates), (len(x), net.num_gates)):
        raise DataError(
            f"differences: xi must have shape (1, {net.num_gates}) or ({len(x)}, {net.num_gates}), got "
            f"{tuple(xi.shape)}"
        )
    if on is not None and len(on) != net.num_branches:
        raise DataError(f"differences: on must hold one flag for each of {net.num_branches} branches, got {len(on)}")
