"""What is to be left of a network, how each method is told, and whether it got there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.layers import gates_of
from bayesprune.methods import get_method
from bayesprune.methods.dropnet import DropNet
from bayesprune.methods.protocol.ranking import whole_part
from bayesprune.methods.protocol.structures import share_without

MACS, WEIGHTS, FREE = "macs", "weights", "free"
"""Multiply-adds of the compacted network; its weights that are not 0; whatever it ends with."""
SPARSITY = "sparsity"
"""What methods call the share of weights that are 0."""
DENSE, OURS, SMALL = "none", "svi", "small"
"""Plain training; variational inference; and a control, the network that is narrower from the start on."""
MORE = 0.01
"""How much more than a goal is near enough, as a share of it."""
LESS = {MACS: 0.05, WEIGHTS: 0.01}
"""How much less is, as a share of the dense network, and never more than half of the goal; see `Goal.missed`."""
HALVINGS = 40


@dataclass(frozen=True)
class Goal:
    """What is to be left.

    Attributes:
        measure: ``"macs"``, ``"weights"`` or ``"free"``.
        share: Of what the dense network has; 1 for a free goal.

    Examples:
        >>> Goal("macs", 0.1).missed(0.06), Goal("macs", 0.1).missed(0.102)
        (False, True)
    """

    measure: str
    share: float = 1.0

    def missed(self, left: float) -> bool:
        """Whether so large a share is no answer to the goal.

        More than the goal by one in a hundred of it would be an advantage. Less is the method's own loss, and stands in
        the table: up to five in a hundred of the dense network's multiply-adds, as a filter of LeNet-5 may be two, or
        one in a hundred of its weights. Less than half of the goal is another network.
        """
        if self.measure == FREE:
            return False
        least, most = self.allowed
        return not least <= left <= most

    @property
    def allowed(self) -> tuple[float, float]:
        """The least and the most that may be left for a goal that is not free."""
        return self.share - min(LESS[self.measure], self.share / 2), self.share * (1 + MORE)

    def __str__(self) -> str:
        return FREE if self.measure == FREE else f"{self.measure}={exact(self.share)}"


def exact(number: float) -> str:
    """A number with all its digits, so that others look different; a whole one without a point."""
    return repr(float(number)).removesuffix(".0")


def told_by(method: str) -> str | None:
    """The option by which a method is told what to leave; ``None`` for those that end where they end.

    Args:
        method: Its name.

    Raises:
        ConfigError: for an unknown one.
    """
    if method == OURS:
        return "budget"
    if method in AIMS:
        return AIMS[method][1]
    if method == SMALL or method in REGULARISERS:
        return None
    options = get_method(method).options()
    return next((name for name in (MACS, SPARSITY) if name in options), None)


def measures_of(method: str) -> tuple[str, ...]:
    """The measures in which a method can be told what to leave; ``"free"`` alone for those that end where they end.

    Args:
        method: Its name.

    Raises:
        ConfigError: for an unknown one.
    """
    if method in (OURS, SMALL):
        return (MACS, WEIGHTS) if method == OURS else (MACS,)
    if method in AIMS:
        return (AIMS[method][0],)
    return ({MACS: MACS, SPARSITY: WEIGHTS, None: FREE}[told_by(method)],)


REGULARISERS = ("dsd",)
"""Methods whose sparsity is that of a phase, and not of what they end with."""

UNGATED = ("factorised",)
"""Methods that put others in the place of layers, as far as these have no gates."""


@dataclass(frozen=True)
class Aimed:
    """What a goal is aimed at with.

    Attributes:
        net: The gated network as it begins.
        example: One input.
        epochs: Length of the run.
    """

    net: nn.Module
    example: Inputs
    epochs: int


def aim(method: str, goal: Goal, options: Mapping[str, Any], at: Aimed) -> dict[str, Any]:
    """The options by which a method leaves what the goal says, besides those that it has.

    Args:
        method: Its name, other than `OURS` and `SMALL`.
        goal: What is to be left.
        options: The others, as they were tuned.
        at: What it is trained on.

    Raises:
        ConfigError: if the method cannot leave that; with the closest that it can.
    """
    if goal.measure == FREE:
        return {}
    if method in AIMS:
        _, option, solve = AIMS[method]
        return {option: solve(goal, options, at)}
    return {MACS: goal.share} if goal.measure == MACS else {SPARSITY: 1 - goal.share}


def least(found: Callable[[float], float], goal: Goal, what: str) -> float:
    """The number between 0 and 1 at which a falling function comes nearest to a goal without missing it.

    Args:
        found: The function, which gives what is left.
        goal: What it is to give.
        what: What gives it, for messages.

    Raises:
        ConfigError: if it never is, or jumps over all that would do.
    """
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) <= goal.share else (middle, high)
    left = {end: found(end) for end in (high, low)}
    for end in sorted(left, key=lambda end: abs(left[end] - goal.share)):
        if not goal.missed(left[end]):
            return end
    raise ConfigError(
        f"{what} cannot leave {goal.share:g}; the closest reachable are {left[high]:.4f}, {left[low]:.4f}"
    )


def _dropnet(goal: Goal, options: Mapping[str, Any], at: Aimed) -> float:
    """DropNet's share: as many units of each gate are left as its cycles leave, whichever they are."""
    cycles = min(options.get("cycles", DropNet().cycles), at.epochs)
    left_of = share_without(at.net, at.example)
    sizes = {name: gate.size for name, gate in gates_of(at.net).items() if gate.size > 1}

    def left(part: float) -> float:
        kept = {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}
        for _ in range(cycles - 1):
            kept = {name: on & ~DropNet(part).quiet(torch.arange(len(on)).float(), on) for name, on in kept.items()}
        return left_of({name: ~on for name, on in kept.items()})

    return least(left, goal, f"dropnet in {cycles} cycles")


def _lottery(goal: Goal, options: Mapping[str, Any], at: Aimed) -> float:
    """The share of a lottery ticket: of the last layer half of it goes in each cycle."""
    rounds = min(options.get("cycles", get_method("lottery").options()["cycles"]), at.epochs) - 1
    *hidden, last = _sizes(at.net)

    def left(part: float) -> float:
        return (sum(hidden) * (1 - part) ** rounds + last * (1 - part / 2) ** rounds) / (sum(hidden) + last)

    return least(left, goal, f"lottery in {rounds + 1} cycles")


def _targeted_dropout(goal: Goal, options: Mapping[str, Any], at: Aimed) -> float:
    """γ of targeted dropout, which leaves the last layer alone and takes whole weights of each output."""
    *hidden, last = [(len(weight), weight[0].numel()) for weight in _weights(at.net)]
    total = sum(outputs * inputs for outputs, inputs in (*hidden, last))

    def left(gamma: float) -> float:
        gone = sum(outputs * whole_part(gamma, inputs) for outputs, inputs in hidden)
        return 1 - gone / total

    return least(left, goal, "targeted_dropout")


def _weights(net: nn.Module) -> list[Tensor]:
    """The weights that methods may mask: those of at least two dimensions, shared ones once, where they are last."""
    held: list[Tensor] = [weight for _, weight in net.named_parameters(remove_duplicate=False) if weight.dim() > 1]
    return [*dict.fromkeys(reversed(held))][::-1]


def _sizes(net: nn.Module) -> list[int]:
    return [weight.numel() for weight in _weights(net)]


AIMS: dict[str, tuple[str, str, Callable[[Goal, Mapping[str, Any], Aimed], float]]] = {
    "dropnet": (MACS, "share", _dropnet),
    "lottery": (WEIGHTS, "share", _lottery),
    "targeted_dropout": (WEIGHTS, "gamma", _targeted_dropout),
}
"""Methods that are told by something else than a share of what is left: measure, option, and what solves for it."""
