"""What a method may ask to be told of activations, gradients and weights: a closed list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

Statistic = Literal["mean_abs", "zeros_in", "act_grad", "pooled", "rank", "in_out", "vectors", "change"]


class ActGrad(NamedTuple):
    """The derivative of an example's loss for a gate at 1: Σ a ∂ℓ/∂a over all that the gate multiplies.

    Attributes:
        mean: Its mean over examples, with its sign, shape ``(size,)``, nats.
        size: The mean of its absolute value.

    Examples:
        >>> import torch
        >>> ActGrad(torch.tensor([0.0]), torch.tensor([0.5])).size.item()
        0.5
    """

    mean: Tensor
    size: Tensor


class InOut(NamedTuple):
    """What went into a layer and what it gave.

    Attributes:
        inputs: First dimension the examples, on the host.
        outputs: Likewise, before an activation function that is a module of its own.

    Examples:
        >>> import torch
        >>> len(InOut(torch.zeros(3, 4), torch.zeros(3, 2)).inputs)
        3
    """

    inputs: Tensor
    outputs: Tensor


@dataclass
class Stats:
    """What was asked for; the rest is empty. In eval mode, on the host.

    By gate, a structure is what it multiplies there, its positions those of images or sequences. Where a gate
    multiplies in several places, ``mean_abs`` and ``rank`` are their means, ``act_grad`` is the sum, ``pooled`` the
    maximum.

    Attributes:
        examples: How many examples were looked at, in all processes.
        targets: Their targets, with ``pooled``, ``in_out`` or ``vectors``.
        mean_abs: By gate, the mean of |a| over examples and positions, shape ``(size,)``.
        rank: By gate, the mean rank of its maps over examples, shape ``(size,)``; a map is a matrix of the last of its
            dimensions by all others.
        act_grad: By gate, how the loss depends on it.
        pooled: By gate, the maximum over positions, shape ``(examples, size)``.
        zeros_in: By weight, which share of its layer's inputs is exactly 0, shape ``()``.
        in_out: By weight, inputs and outputs of its layer.
        vectors: By weight of a linear layer or convolution without groups, what a row of its weight is multiplied by at
            one position of every example, drawn at random but alike in every pass, shape ``(examples, n)``.
        change: By weight, ‖ΔW‖ / ‖W‖ since the last decision, or since the phase began, shape ``()``.

    Examples:
        >>> Stats(examples=10).mean_abs
        {}
    """

    examples: int = 0
    targets: Tensor | None = None
    mean_abs: dict[str, Tensor] = field(default_factory=dict)
    rank: dict[str, Tensor] = field(default_factory=dict)
    act_grad: dict[str, ActGrad] = field(default_factory=dict)
    pooled: dict[str, Tensor] = field(default_factory=dict)
    zeros_in: dict[str, Tensor] = field(default_factory=dict)
    in_out: dict[str, InOut] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    change: dict[str, Tensor] = field(default_factory=dict)
