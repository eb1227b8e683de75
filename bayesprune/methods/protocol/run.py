"""What a method of pruning may ask of the run that it is part of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.infer import GateSample
from bayesprune.methods.protocol.records import Batch, Model, Phase, Site
from bayesprune.methods.protocol.stats import Stats
from bayesprune.types import Score


class Engine(Protocol):
    """What a method may ask of where training computes; see `bayesprune.training.Engine`.

    Examples:
        >>> def everywhere(engine: Engine, tensor: Tensor) -> Tensor:
        ...     return engine.mean(tensor)
    """

    @property
    def world_size(self) -> int:
        """How many processes share every batch."""

    @property
    def divides(self) -> bool:
        """Whether processes divide the weights among them."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes."""

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over processes."""

    def agree(self, what: str, tensor: Tensor) -> None:
        """Refuse to go on if processes hold different values.

        Args:
            what: Name of the values, for the message.
            tensor: The values.
        """

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

    Examples:
        >>> def finished(run: Run) -> bool:
        ...     return run.progress == 1.0
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

    def stats(self) -> Stats:
        """What `Needs.stats` names, of the network as it is now, in one pass over the training loader in eval mode.

        To be asked for in `Method.decide`. The pass is charged to the run: an example counts one forward pass, with
        ``act_grad`` three.
        """

    def remove(
        self, off: Mapping[str, Tensor], net_cost: Tensor | None = None, forced: Tensor | None = None
    ) -> Tensor | None:
        """Remove structures at once, as the loop does what `Decision.off` says.

        Args:
            off: By name of a gate, which of its structures go, bool.
            net_cost: For the record, the evidence for each, shape ``(S,)``.
            forced: For the record, which go for the sake of a budget, bool, shape ``(S,)``; ``None`` for none.

        Returns:
            The entries of θ that are left, in their order; ``None`` if nothing can go now.

        Raises:
            GateError: if a layer would be left empty; nothing is changed then.
        """
