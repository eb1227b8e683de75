"""What a method of pruning tells the training loop, and what it may ask of it: hooks, and a view of the run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.data.spans import Span
from bayesprune.infer import BayesianNet, GateSample
from bayesprune.infer.plain import PlainNet
from bayesprune.infer.targets import Targets, losses
from bayesprune.schema import shaped
from bayesprune.types import Score

Model = BayesianNet | PlainNet
"""What is trained: a network with a posterior, or one without."""
Kind = Literal["weight", "output"]
"""What a site is: a tensor of weights, or what a gate multiplies (units, filters, a branch)."""


@dataclass(frozen=True)
class Site:
    """A place where a method may act.

    Attributes:
        name: Of a weight the name of the parameter, of an output that of the gated module.
        kind: Which of the two it is.
        layer: The module that holds it.
    """

    name: str
    kind: Kind
    layer: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        """The parameter, where it is a weight."""
        return self.layer.get_parameter("weight")


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
    """

    name: str
    share: float = 1.0
    lr: float = 1.0
    restart: bool = True
    start: Literal["current", "initial", "fresh"] = "current"
    decide_every: int | None = None


@dataclass(frozen=True)
class Needs:
    """What a method asks of the loop before the first step.

    Attributes:
        phases: The run, from its beginning to its end.
        views: The kinds of sites that go through `Method.view`; those of others are left alone and cost nothing.
    """

    phases: tuple[Phase, ...] = (Phase("train"),)
    views: frozenset[Kind] = frozenset()


@dataclass
class Decision:
    """What is to be done now, in this order.

    Attributes:
        lift: Whether all masks go first; weights that were masked go on from 0.
        masks: By name of a weight, which of its entries are kept, bool. Gradient, weight and every moment are 0 at the
            others from now on. Rows without an entry switch off the units that they write, where these have gates.
        off: By name of a gate, which of its structures are switched off, bool; they are removed as far as they can go.
        note: Fields of the epoch's row to set, see `EpochRow`.
    """

    lift: bool = False
    masks: dict[str, Tensor] = field(default_factory=dict)
    off: dict[str, Tensor] = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)


class Batch(NamedTuple):
    """The examples of a step, on the device.

    Attributes:
        x: Inputs, shape ``(B, ...)``.
        y: Targets.
        part: Which of the examples of all processes they are.
    """

    x: Inputs
    y: Targets
    part: Span


class Value(NamedTuple):
    """The objective of a step.

    Attributes:
        loss: What gradients are taken of, nats per example.
        nll: Its data term alone, without gradient, still on the device.
    """

    loss: Tensor
    nll: Tensor


class Engine(Protocol):
    """What a method may ask of where training computes; see `bayesprune.training.Engine`."""

    @property
    def divides(self) -> bool:
        """Whether processes divide the weights among them."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes."""

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over processes."""

    def agree(self, what: str, tensor: Tensor) -> None:
        """Refuse to go on if processes hold different values."""

    def broadcast(self, value: Any) -> Any:
        """What process 0 holds."""

    def average_statistics(self, net: nn.Module) -> None:
        """Let running statistics of normalisations be their means over processes."""

    def whole(self, read_only: bool = False) -> AbstractContextManager[None]:
        """The context in which every process holds the whole network."""


class Run(Protocol):
    """A run as its method sees it: to look at, but for `remove`.

    Attributes:
        net: What is trained.
        module: What to call instead of it in the pass whose gradients count.
        prune: Whether structures are removed while training.
        example: One input, shape ``(1, ...)``.
        gates: Which gates are on where none is drawn: θ > ½.
        epochs: Length of the run.
        steps_per_epoch: Steps of an epoch.
        epoch: Epochs done.
        step: Steps done; in `Method.stepped` with the present one.
        batch: The examples of the present step.
        generator: Random numbers of the method's own, on the host; checkpoints hold its state.
    """

    net: Model
    module: Callable[..., Tensor]
    prune: bool
    example: Inputs
    gates: GateSample
    epochs: int
    steps_per_epoch: int
    epoch: int
    step: int
    batch: Batch
    generator: torch.Generator

    @property
    def engine(self) -> Engine:
        """Where training computes."""

    @property
    def sites(self) -> Sequence[Site]:
        """Where a method may act."""

    @property
    def origin(self) -> Mapping[str, Tensor]:
        """By gate name, the indices that the structures left had at the start."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """By name of a weight, the entries that are kept, bool; those that have no mask are not in it."""

    @property
    def phase(self) -> Phase:
        """The present phase."""

    @property
    def progress(self) -> float:
        """How much of the run's steps is done, from 0 to 1."""

    def validate(self) -> Score:
        """How well the network does on the validation loader; the passes are charged to the run."""

    def remove(self, off: Mapping[str, Tensor], net_cost: Tensor | None = None) -> Tensor | None:
        """Remove structures at once, as the loop does what `Decision.off` says.

        Args:
            off: By name of a gate, which of its structures go, bool.
            net_cost: For the record, the evidence for each, shape ``(S,)``.

        Returns:
            The entries of θ that are left, in their order; ``None`` if nothing can go now.

        Raises:
            GateError: if a layer would be left empty; nothing is changed then.
        """


class Method(nn.Module):
    """A method of pruning. All hooks but `setup` may be left as they are, and then cost nothing.

    Its parameters are trained in a group of their own, without weight decay. Its buffers and its random numbers are
    kept in checkpoints. A step is: `objective` (which calls `loss`), backward, `grads`, masks, the optimiser's step,
    masks, `stepped`.

    Attributes:
        name: That of the module that the method is in, by which `fit` knows it.
        posterior: Whether it trains a `BayesianNet`, rather than any network.

    Example:
        >>> class Shrinking(Method):  # the weights decay by a share of themselves in every step
        ...     name = "shrinking"
        ...     def stepped(self, run: Run) -> None:
        ...         for site in run.sites:
        ...             if site.kind == "weight":
        ...                 site.weight.mul_(0.999)
        >>> Shrinking().setup.__name__
        'setup'
    """

    name: ClassVar[str] = ""
    posterior: ClassVar[bool] = False

    def setup(self, run: Run) -> Needs:
        """Look at the run, make parameters of one's own, and say what is needed."""
        return Needs()

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """What the network computes with in place of a weight, or of an output, in training and in eval mode."""
        return value

    def loss(self, run: Run) -> Tensor | float:
        """What the loss has besides the data term, nats per example."""
        return 0.0

    def objective(self, run: Run) -> Value:
        """The objective on ``run.batch``; to be replaced by methods that draw what the network computes with."""
        x, y, _ = run.batch
        with run.engine.autocast():
            outputs = run.module(x, run.gates.xi, skip=True, on=run.gates.on)
            nll = losses(run.net.likelihood, outputs, y).mean()
            return Value(nll + self.loss(run) + run.net.likelihood.penalty() / run.net.num_data, nll.detach())

    def grads(self, run: Run) -> None:
        """Change gradients, after the backward pass and before the step of the optimiser."""

    def stepped(self, run: Run) -> None:
        """Change weights after the optimiser's step; called without gradient."""

    def decide(self, run: Run) -> Decision:
        """At the end of phases, and of epochs as they say: what is masked and what is switched off."""
        return Decision()

    def epoch(self, run: Run) -> AbstractContextManager[None]:
        """The context of the steps of an epoch, left also if one of them fails."""
        return nullcontext()

    # checkpoints ---------------------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """What tells two methods of one name apart, plain values: the arguments that it was made with."""
        names = [] if type(self).__init__ is nn.Module.__init__ else inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names}

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs of it."""
        return {name: value.cpu().clone() for name, value in self.state_dict().items()}

    def check(self, state: Mapping[str, Any], gates: int) -> None:
        """Refuse a state that is not this method's.

        Args:
            state: What was read from a file in place of `state`.
            gates: How many gates the network of the checkpoint has.

        Raises:
            Mismatch: where something is not as it must be.
        """
        shaped(self.state_dict())(state, "method")

    def load(self, state: Mapping[str, Any], run: Run) -> None:
        """Take up the state of a checkpoint, with the run as it was then."""
        self.load_state_dict(dict(state))
