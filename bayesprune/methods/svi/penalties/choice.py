"""Which penalty a run has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayesprune.data.inputs import Inputs
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.penalties.base import Penalty
from bayesprune.methods.svi.penalties.by_budget import BudgetPenalty
from bayesprune.methods.svi.penalties.by_cost import CostPenalty
from bayesprune.methods.svi.penalties.constant import ConstantPenalty
from bayesprune.methods.svi.schedule import Schedule
from bayesprune.methods.svi.settings import Settings


def make_penalty(
    net: BayesianNet,
    example: Inputs,
    settings: Settings,
    schedule: Schedule,
    broadcast: Callable[[Any], Any] = lambda value: value,
) -> Penalty:
    """The penalty on structures that the settings of a run ask for.

    Args:
        net: The network, with all of its structures.
        example: One input, shape ``(1, ...)``, where the network is.
        settings: How to train.
        schedule: The phases of the run.
        broadcast: Gives every process what process 0 passes; by default there is one.

    Raises:
        ConfigError: for a budget below what is left when all structures are off that may be, and for a price or budget
            in place of a prior with fixed inclusion probabilities.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from bayesprune import layers
        >>> from bayesprune.pruning import CostPrice
        >>> net = nn.Sequential(layers.Linear(2, 3, bias=False, gate="unit"), nn.Linear(3, 1, bias=False))
        >>> bnn = BayesianNet(net, num_data=100)
        >>> penalty = make_penalty(bnn, torch.ones(1, 2), Settings(price=CostPrice(0.1)), Schedule(10, 10))
        >>> round(penalty.expected, 6)  # θ begins at 0.9
        0.9
        >>> bnn.price  # ν / √0.9 / 3, of which a fifth at the start of sampling
        tensor([0.0070, 0.0070, 0.0070])
    """
    price, budget, temperature = settings.price, settings.budget, settings.temperature
    if price is None and budget is None:
        return ConstantPenalty(net, example, schedule, temperature)
    if not net.prior_type.decides:
        raise ConfigError(
            f"fit: Settings.{'price' if budget is None else 'budget'} would overwrite what the FixedInclusion "
            "prior says about each gate; leave it out, or build the BayesianNet with a FlatteningPrior"
        )
    if budget is not None:
        return BudgetPenalty(net, example, budget, schedule, temperature, broadcast)
    assert price is not None
    return CostPenalty(net, example, price, schedule, temperature)
