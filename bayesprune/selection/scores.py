"""Which inputs to call relevant, given their inclusion probabilities, and how good a choice was."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.arrays import as_tensor
from bayesprune.checked import real
from bayesprune.errors import ConfigError

RESOLUTION = 1e-6
"""By how much an expected rate may exceed its level: float32 probabilities are no more accurate."""


class Recovery(NamedTuple):
    """How a selection compares with the true support.

    Attributes:
        power: Share of the support that was selected (true positive rate); NaN where the support is empty.
        fdp: False discovery proportion, the share of the selection that is not in the support; 0 where nothing was
            selected. Its mean over data sets is the false discovery rate.

    Examples:
        >>> import torch
        >>> power_and_fdr(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        Recovery(power=1.0, fdp=0.5)
    """

    power: float
    fdp: float


@checked_arguments
def power_and_fdr(selected: Tensor | np.ndarray, support: Tensor | np.ndarray) -> Recovery:
    """Compare a selection of inputs with the truth.

    Args:
        selected: Inputs that were selected, bool, shape ``(d,)``.
        support: Inputs that matter, bool, shape ``(d,)``.

    Raises:
        ConfigError: if the two are not bool vectors of the same length.
    """
    selected, support = as_tensor(selected, "power_and_fdr: selected"), as_tensor(support, "power_and_fdr: support")
    for name, values in (("selected", selected), ("support", support)):
        if values.dtype != torch.bool or values.dim() != 1 or len(values) != len(selected):
            raise ConfigError(
                f"power_and_fdr: expected selected and support to be bool, one entry an input, got {name} of "
                f"{values.dtype} and shape {tuple(values.shape)}; make probabilities a selection with select()"
            )
    support = support.to(selected.device)
    hits, chosen, active = (int(count.sum()) for count in (selected & support, selected, support))
    return Recovery(power=hits / active if active else math.nan, fdp=(chosen - hits) / chosen if chosen else 0.0)


@checked_arguments
def select(probabilities: Tensor | np.ndarray, fdr: float = 0.1) -> Tensor:
    """The largest set of inputs whose expected false discovery rate is at most ``fdr``.

    Under the posterior the expected share of false discoveries in a set is the mean of 1 − p over it, p being the
    inclusion probabilities (Newton et al. 2004, Müller et al. 2004). The set holds the inputs of the highest p; of
    equal ones that do not all fit, the first. The other usual choice is the median probability model, p > ½ (Barbieri &
    Berger 2004): it bounds the error of each input rather than their mean.

    Args:
        probabilities: Posterior inclusion probabilities, shape ``(d,)``.
        fdr: Level, in [0, 1].

    Returns:
        Bool, shape ``(d,)``.

    Raises:
        ConfigError: for a level or probabilities outside [0, 1], or NaN.
    """
    fdr = real("select: fdr", fdr, 0, 1, "[]", hint="0.05 to 0.2 are usual")
    probabilities = as_tensor(probabilities, "select: probabilities")
    if probabilities.dim() != 1 or not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ConfigError(
            f"select: expected inclusion probabilities in [0, 1], shape (d,), got shape {tuple(probabilities.shape)} "
            "or values outside (or NaN); give the probabilities of one network, without a dimension for draws"
        )
    ordered, order = probabilities.detach().to("cpu", torch.float64).sort(descending=True, stable=True)
    rates = (1 - ordered).cumsum(0) / torch.arange(1, len(ordered) + 1)
    selected = torch.zeros(len(ordered), dtype=torch.bool)
    selected[order[rates <= fdr + RESOLUTION]] = True  # the rates rise along the order
    return selected.to(probabilities.device)
