"""What a method of pruning is to the training loop: hooks, all of which may be left as they are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from bayesprune.infer.targets import losses
from bayesprune.methods.protocol.records import Decision, Needs, Site, Value
from bayesprune.methods.protocol.run import Run
from bayesprune.schema import shaped
from bayesprune.types import Evidence


class Method(nn.Module):
    """A method of pruning. All hooks but `setup` may be left as they are, and then cost nothing.

    Its parameters are trained in a group of their own, without weight decay. Its buffers and its random numbers are
    kept in checkpoints. A step is: `objective` (which calls `loss`), backward, `grads`, masks, the optimiser's step,
    masks, `stepped`.

    Attributes:
        name: That of the module that the method is in, by which `fit` knows it.
        posterior: Whether it trains a `BayesianNet`, rather than any network.

    Examples:
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
        """What the network computes with in place of a weight, or of an output, in training and in eval mode.

        Args:
            site: Where.
            value: The weight or output there.
            run: The run.
        """
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
            more = self.loss(run) + run.net.likelihood.penalty() / run.net.num_data
            nothing = isinstance(more, float) and more == 0  # adding it would take time, forward and backward
            return Value(nll if nothing else nll + more, nll.detach())

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

    def evidence(self) -> Evidence | None:
        """What is known of every gate that is left, for the record; asked for as epochs end and before removals."""
        return None

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
        """Take up the state of a checkpoint.

        Args:
            state: What `state` gave, as `check` let it pass.
            run: The run, as it was then.
        """
        self.load_state_dict(dict(state))
