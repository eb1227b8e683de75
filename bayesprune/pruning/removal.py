"""When a structure may be removed during training (Guenter & Sideris 2024, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole


class RemovalMonitor:
    """Watches every gate and names those whose structures may go.

    A structure may be removed when, at ``patience`` consecutive checks, (1) θ_s is exactly 0 after projection, so it is
    never sampled on and removing it changes no output, and (2) the latest estimate of E[C | ξ_s=1] − E[C | ξ_s=0] + ρ_s
    is positive, so the data do not want it back. Patience guards against premature pruning.

    Args:
        num_gates: S.
        patience: How many consecutive checks must agree.
        device: Where θ lies.

    Examples:
        >>> monitor = RemovalMonitor(num_gates=2, patience=2)
        >>> for _ in range(2):
        ...     found = monitor.check(theta=torch.tensor([0.0, 0.0]), net_cost=torch.tensor([0.1, -0.1]))
        >>> found  # the data want the second one back
        tensor([ True, False])
    """

    @checked_arguments
    def __init__(self, num_gates: int, patience: int = 2, device: torch.device | None = None):
        self.patience = whole("RemovalMonitor: patience", patience)
        self.agreed = torch.zeros(whole("RemovalMonitor: num_gates", num_gates, 0), dtype=torch.long, device=device)

    def check(self, theta: Tensor, net_cost: Tensor) -> Tensor:
        """Check every gate once.

        Args:
            theta: θ, shape ``(S,)``.
            net_cost: Latest estimates of ∂L/∂θ, shape ``(S,)``, nats per example.

        Returns:
            Which structures may be removed now, bool, shape ``(S,)``.
        """
        self.agreed = torch.where((theta == 0) & (net_cost > 0), self.agreed + 1, 0)
        return self.ready

    @property
    def ready(self) -> Tensor:
        """Which structures may be removed as of the last check, bool, shape ``(S,)``."""
        return self.agreed >= self.patience

    def keep(self, kept: Tensor) -> None:
        """Go on with the gates of these indices."""
        self.agreed = self.agreed[kept]

    def reset(self) -> None:
        """Forget all checks."""
        self.agreed.zero_()


@checked_arguments
def gates_left(theta: Tensor) -> int:
    """How many gates are left, of θ of any shape: those that `compact` keeps, with θ > ½.

    This is the one count that the lines of a run, its tables and its files give.
    """
    return int((theta > 0.5).sum())
