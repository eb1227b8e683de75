"""When a removal pays: if it saves more over the rest of the run than it takes."""

from __future__ import annotations

from torch import Tensor

from bayesprune.infer import BayesianNet
from bayesprune.methods.protocol import Run
from bayesprune.methods.svi.penalties import Penalty

SURGERY = 6e7
"""As how many multiply-adds of forward passes a removal counts, for each module of the network.

It traces the network and builds it anew, and the optimiser's state, the prices and the record follow: some milliseconds
a module, in which a core of a CPU takes half as many for small networks, and up to five times as many for large ones.
Twice what it takes, because structures that wait go with the next ones: on digits (LeNet-300-100, 720 steps) there are
4 cuts instead of 8, and settling takes 13 % less."""


class Payoff:
    """Says whether to remove structures now saves more than it takes; called with those that may go.

    Both are counted in multiply-adds, not timed, so that every process and every resumed run decides alike. What is
    saved are those of the forward passes of all steps that are left. Gates that a batch shares do not wait: while they
    are there, estimators that flip one gate at a time take their turn with them.

    Args:
        net: The network.
        run: The run that it is trained in.
        penalty: Knows what the network costs.
    """

    def __init__(self, net: BayesianNet, run: Run, penalty: Penalty):
        self.net, self.run, self.penalty = net, run, penalty

    def __call__(self, off: Tensor) -> bool:
        """Whether it pays to remove these.

        Args:
            off: Structures whose gates are off for good, bool, shape ``(S,)``.
        """
        if bool(off[: self.net.num_shared].any()):
            return True
        examples = (1 - self.run.progress) * self.run.epochs * self.net.num_data
        price = SURGERY * sum(1 for _ in self.net.net.modules())
        return examples * self.penalty.saved_macs(off) > price
