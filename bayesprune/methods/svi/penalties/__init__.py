"""What structures cost while training: log γ of the prior, or one that follows the expected cost, or a budget."""

from bayesprune.methods.svi.penalties.base import Penalty
from bayesprune.methods.svi.penalties.choice import make_penalty

__all__ = ["Penalty", "make_penalty"]
