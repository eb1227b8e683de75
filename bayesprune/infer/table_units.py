"""Networks whose results do not depend on the units that a table is measured in."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.data.checks import check_inputs
from bayesprune.errors import DataError
from bayesprune.infer.likelihoods import Likelihood, get_likelihood
from bayesprune.layers import Standardise, Units, moments
from bayesprune.layers.units import UNREAD


@checked_arguments
def standardised(
    net: nn.Module, likelihood: str | Likelihood, x: Tensor, y: Tensor
) -> tuple[nn.Sequential, Likelihood]:
    """A network between the units of its inputs and those of its targets, and a likelihood in the latter.

    Priors of weights and of noise, learning rates and starting values suit numbers of mean 0 and variance 1. Here
    ``net`` goes on seeing such, whatever the table is measured in: a `layers.Standardise` stands before it, and behind
    it, where outputs have the units of targets, a `layers.Units`. Both are part of the network, so that they are
    compacted, saved and exported with it; predictions, intervals, log densities and the noise are in the units of the
    targets. With y·10, x/10 or x + c what is found is the same up to rounding (which in float32 is felt where c is more
    than 10⁴ standard deviations).

    Args:
        net: A network of one tensor ``(B, d)``, with gates or without. It becomes a part of what is returned.
        likelihood: As for `BayesianNet`. A noise scale that is to be learned is guessed relative to the targets'
            standard deviation, one that is given stays in their units. A copy is returned.
        x: Training inputs, shape ``(N, d)``, in their own units. Constant columns become 0, also where they
            later have another value.
        y: Training targets, first dimension N, in their own units.

    Returns:
        What `BayesianNet` and `fit` take: the network, whose parts are called ``standardise``, ``network`` and
        ``units``, and the likelihood.

    Raises:
        DataError: for inputs or targets that are empty, do not fit together or are not finite.

    Examples:
        >>> from bayesprune import BayesianNet, layers
        >>> x = 100 * torch.rand(50, 3)
        >>> y = 1e6 * x[:, :1]
        >>> net = nn.Sequential(layers.Gate(3), nn.Linear(3, 1))
        >>> bnn = BayesianNet(*standardised(net, "learned_gaussian", x, y), num_data=50, weights="normal")
        >>> bnn.gate_names, bool(bnn(x).mean() > 1e6), bool(bnn.likelihood.noise_scale > 1e6)
        (['network.0'], True, True)
    """
    check_inputs(x, "standardised: inputs")
    check_inputs(y, "standardised: targets")
    if x.dim() != 2 or len(x) != len(y):
        raise DataError(
            f"standardised: expected a table of shape (N, d) and N targets, got inputs of shape {tuple(x.shape)} and "
            f"targets of shape {tuple(y.shape)}"
        )
    likelihood = copy.deepcopy(get_likelihood(likelihood))
    dtype = next((p.dtype for p in net.parameters()), torch.get_default_dtype())
    standardise = Standardise(*moments(x, constant=UNREAD)).to(dtype)
    parts: OrderedDict[str, nn.Module] = OrderedDict(standardise=standardise, network=net)
    units = likelihood.take_units(y)
    if units is not None:
        parts["units"] = Units(*units).to(dtype)
    return nn.Sequential(parts), likelihood
