"""What does not go with a method is said as it is, whatever else would be wrong too."""

from __future__ import annotations

import pytest

from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods import Method
from bayesprune.training import fit
from tests.training.problems import EXAMPLES, Batches, examples, units


def test_a_bayesian_net_under_a_method_without_posterior() -> None:
    """Its recommended settings have a price, which is no fault of the user's."""
    bnn = BayesianNet(units(), num_data=EXAMPLES)
    with pytest.raises(ConfigError, match="trains a network without a posterior, got a BayesianNet"):
        fit(bnn, Batches(*examples(), 40), epochs=1, method="none")


class Forgetful(Method):
    """Does not keep what it was made with."""

    name = "forgetful"

    def __init__(self, share: float = 0.5):
        super().__init__()
        self.part = share


class Bare(Method):
    """Is no module yet."""

    name = "bare"

    def __init__(self, share: float = 0.5):
        self.share = share


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Forgetful(), r"Forgetful.__init__ must keep each argument under its own name .* no attribute 'share'"),
        (Bare(), r"Bare.__init__ must begin with super\(\).__init__\(\)"),
    ],
    ids=["forgetful", "bare"],
)
def test_a_method_that_no_checkpoint_could_keep(method: Method, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(units(), Batches(*examples(), 40), epochs=1, method=method)
