"""How much of a selection is chance: what several runs agree on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.arrays import as_tensor
from bayesprune.checked import real
from bayesprune.errors import ConfigError


class Stability(NamedTuple):
    """What several runs say of every input, each of shape ``(d,)``, float64.

    Attributes:
        mean: Mean inclusion probability.
        error: Its standard error over runs; what `reports.draw_inclusion` takes as ``errors``.
        frequency: In which share of the runs the input was selected.
        low: Lower end of that share's interval.
        high: Upper end.

    Examples:
        >>> stability(torch.tensor([[1.0, 0.2], [1.0, 0.4]])).frequency
        tensor([1., 0.], dtype=torch.float64)
    """

    mean: Tensor
    error: Tensor
    frequency: Tensor
    low: Tensor
    high: Tensor


@checked_arguments
def stability(probabilities: Tensor | np.ndarray, *, threshold: float = 0.5, level: float = 0.95) -> Stability:
    """Inclusion probabilities and selections over runs that differ in seed, or in which rows they saw.

    Runs of other seeds on the same rows show what the search leaves to chance; runs on random halves of the rows what
    the data do, too (stability selection, Meinshausen & Bühlmann 2010).

    Args:
        probabilities: Inclusion probabilities of each run, shape ``(R, d)``, R at least 2.
        threshold: An input is selected in a run if its probability is above.
        level: Of the intervals of frequencies (Wilson 1927).

    Raises:
        ConfigError: for fewer than two runs, or probabilities, a threshold or a level outside [0, 1].

    Examples:
        >>> found = stability(torch.tensor([[0.9, 0.1], [0.8, 0.6], [1.0, 0.2], [0.9, 0.1]]))
        >>> found.frequency.tolist(), found.high.round(decimals=2).tolist()
        ([1.0, 0.25], [1.0, 0.7])
    """
    threshold = real("stability: threshold", threshold, 0, 1, "[)")
    level = real("stability: level", level, 0, 1)
    probabilities = as_tensor(probabilities, "stability: probabilities")
    runs = len(probabilities) if probabilities.dim() == 2 else 0
    if runs < 2 or not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ConfigError(
            "stability: expected inclusion probabilities in [0, 1] of two runs or more, shape (R, d), got shape "
            f"{tuple(probabilities.shape)} or values outside (or NaN)"
        )
    values = probabilities.detach().to("cpu", torch.float64)
    share = (values > threshold).double().mean(0)
    z = float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
    centre = (share + z**2 / (2 * runs)) / (1 + z**2 / runs)
    half = z / (1 + z**2 / runs) * (share * (1 - share) / runs + z**2 / (4 * runs**2)).sqrt()
    ends = (centre - half).clamp(min=0), (centre + half).clamp(max=1)
    return Stability(values.mean(0), values.std(0) / runs**0.5, share, *ends)
