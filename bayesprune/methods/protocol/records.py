"""What passes between a method of pruning and the training loop: small records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.data.spans import Span
from bayesprune.infer import BayesianNet
from bayesprune.infer.plain import PlainNet
from bayesprune.infer.targets import Targets
from bayesprune.methods.protocol.stats import Statistic

Model = BayesianNet | PlainNet
"""What is trained: a network with a posterior, or one without."""
Kind = Literal["weight", "output"]
"""What a site is: a tensor of weights, or what a gate multiplies (units, filters, a branch)."""


@dataclass(frozen=True)
class Site:
    """A place where a method may act.

    Attributes:
        name: Of a weight the name of the parameter, of an output that of its gate, which may have several.
        kind: Which of the two it is.
        layer: The module that holds it, the first one of a weight that several share.

    Examples:
        >>> site = Site("0.weight", "weight", nn.Linear(4, 2))
        >>> site.weight.shape
        torch.Size([2, 4])
    """

    name: str
    kind: Kind
    layer: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        """The parameter, where it is a weight."""
        return self.layer.get_parameter("weight")

    def holders(self, net: nn.Module) -> list[nn.Module]:
        """The layers that compute with it: those that hold the weight, of which several may be tied to it.

        Args:
            net: The network.
        """
        if self.kind == "output":
            return [self.layer]
        weight = self.weight
        return [module for module in net.modules() if getattr(module, "weight", None) is weight]


@dataclass(frozen=True)
class Phase:
    """A stretch of a run.

    Attributes:
        name: What records call it.
        share: How much of the run's epochs it takes, relative to the other phases.
        lr: Factor on the learning rate.
        restart: Whether the optimiser begins anew, and the schedule of the learning rate with it.
        start: With which weights: as they are, as the run began, or as layers initialise themselves.
        decide_every: After how many of its epochs `Method.decide` is asked; ``None`` for at its end alone, where it
            always is.
        rise_again: After which share of its steps the learning rate rises a second time, to the peak, and stays there
            until it falls to 0 in the end, by an optimiser that forgets what it kept; ``None`` for never.

    Examples:
        >>> Phase("again", share=2.0, lr=0.1, start="initial").restart
        True
    """

    name: str
    share: float = 1.0
    lr: float = 1.0
    restart: bool = True
    start: Literal["current", "initial", "fresh"] = "current"
    decide_every: int | None = None
    rise_again: float | None = None


@dataclass(frozen=True)
class Needs:
    """What a method asks of the loop before the first step.

    Attributes:
        phases: The run, from its beginning to its end.
        views: The kinds of sites that go through `Method.view`; those of others are left alone and cost nothing.
        stats: What `Run.stats` gives, see `Stats`.
        examples: How many examples a pass for them takes, the first that the loader gives; ``None`` for all. What keeps
            something of every example (``pooled``, ``in_out``) needs a number.

    Examples:
        >>> Needs(phases=(Phase("train"), Phase("tune", lr=0.1))).views
        frozenset()
    """

    phases: tuple[Phase, ...] = (Phase("train"),)
    views: frozenset[Kind] = frozenset()
    stats: tuple[Statistic, ...] = ()
    examples: int | None = None


@dataclass
class Decision:
    """What is to be done now, in this order.

    Attributes:
        lift: Whether all masks go first; weights that were masked go on from 0.
        assign: By name of a parameter, its values from now on; masks hold for them, and moments stay.
        masks: By name of a weight, which of its entries are kept, bool. Gradient, weight and every moment are 0 at the
            others from now on. Rows without an entry switch off the units that they write, where these have gates.
        off: By name of a gate, which of its structures are switched off, bool; they are removed as far as they can go.
        freeze: Names of modules, ``""`` for all: for the rest of the run their weights stay as they are, also where a
            phase starts anew, and they are in eval mode.
        stop: Whether the present phase ends now; the run is that much shorter.
        spent: What it took to decide besides passes, such as a solver's work, multiply-adds; charged to the run.
        note: Fields of the epoch's row to set, see `EpochRow`.

    Examples:
        >>> import torch
        >>> Decision(off={"0": torch.tensor([True, False])}).masks
        {}
    """

    lift: bool = False
    assign: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    off: dict[str, Tensor] = field(default_factory=dict)
    freeze: frozenset[str] = frozenset()
    stop: bool = False
    spent: float = 0.0
    note: dict[str, Any] = field(default_factory=dict)


class Batch(NamedTuple):
    """The examples of a step, on the device.

    Attributes:
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        part: Which of the examples of all processes they are.

    Examples:
        >>> import torch
        >>> len(Batch(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), Span(3, 0, 3)).y)
        3
    """

    x: Inputs
    y: Targets
    part: Span


class Value(NamedTuple):
    """The objective of a step.

    Attributes:
        loss: What gradients are taken of, nats per example.
        nll: Its data term alone, without gradient, still on the device.

    Examples:
        >>> import torch
        >>> loss, nll = Value(torch.tensor(1.5), torch.tensor(1.0))
        >>> float(loss - nll)
        0.5
    """

    loss: Tensor
    nll: Tensor
