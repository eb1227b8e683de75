"""The linear spike-and-slab regression with known noise, reduced to what its posterior depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.arrays import as_tensor
from bayesprune.checked import real
from bayesprune.errors import ConfigError, DataError


@dataclass(frozen=True)
class Regression:
    """y = b + X (ξ ∘ w) + noise, ξ_k ~ Bernoulli(inclusion_k), w_k ~ Normal(0, slab_scale²), b integrated out.

    Attributes:
        gram: XᵀPX / σ², shape ``(d, d)``, float64; P is the precision of b + noise in units of 1/σ².
        cross: XᵀPy / σ², shape ``(d,)``.
        log_evidence: log p(y | no input is in the model), nats.
        inclusion: Prior inclusion probabilities, shape ``(d,)``.
        slab_scale: Standard deviation of a coefficient that is in the model.
    """

    gram: Tensor
    cross: Tensor
    log_evidence: float
    inclusion: Tensor
    slab_scale: float

    @property
    def num_inputs(self) -> int:
        """The number d of inputs."""
        return len(self.cross)

    def systems(self, on: Tensor) -> Tensor:
        """I + slab_scale² · gram of several models, rows and columns of inputs that they lack as in I.

        Args:
            on: 1 where a model has an input and 0 where not, shape ``(models, d)``.

        Returns:
            Shape ``(models, d, d)``; no eigenvalue is below 1.
        """
        scaled = self.slab_scale**2 * self.gram
        return torch.eye(self.num_inputs, dtype=torch.float64) + scaled * on[:, :, None] * on[:, None]


def reduce(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    inclusion: Tensor | np.ndarray | float,
    slab_scale: float,
    noise_scale: float,
    intercept_scale: float,
) -> Regression:
    """Check a regression and reduce it to its sufficient statistics.

    The intercept is integrated out: with b ~ Normal(0, τ²), P = I − r 11ᵀ/N where r = Nτ² / (σ² + Nτ²). Both sides are
    multiplied by P^½, which takes the share 1 − √(1 − r) off every column's mean.

    Args:
        x: Inputs, shape ``(N, d)``.
        y: Targets, shape ``(N,)``.
        inclusion: Prior inclusion probability, one for all inputs or shape ``(d,)``.
        slab_scale: Standard deviation of the slab.
        noise_scale: Standard deviation σ of the noise.
        intercept_scale: Standard deviation τ of the intercept: 0 for none, infinite for a flat prior (density 1).

    Raises:
        ConfigError: for scales or probabilities out of their range.
        DataError: for inputs or targets that are empty, do not fit together or are not finite.
    """
    x, y = as_tensor(x, "spike-and-slab regression: x"), as_tensor(y, "spike-and-slab regression: y")
    _check_data(x, y)
    inclusion = _prior(inclusion, x.shape[1])
    where, usual = "spike-and-slab regression", "for standardised targets 1 is a usual choice"
    slab_scale = real(f"{where}: slab_scale", slab_scale, 0, hint=usual)
    noise_scale = real(f"{where}: noise_scale", noise_scale, 0, hint=usual)
    meaning = "0 stands for no intercept, infinity for a flat prior"
    intercept_scale = real(f"{where}: intercept_scale", intercept_scale, 0, math.inf, "[]", hint=meaning)
    x, y = x.detach().to("cpu", torch.float64), y.detach().to("cpu", torch.float64)
    spread = math.hypot(1, math.sqrt(len(y)) * intercept_scale / noise_scale)  # of the mean, in noise's units
    x, y = ((values - (1 - 1 / spread) * values.mean(0)) / noise_scale for values in (x, y))
    log_noise = math.log(2 * math.pi) / 2 + math.log(noise_scale)
    of_intercept = log_noise - math.log(len(y)) / 2 if math.isinf(spread) else -math.log(spread)
    of_noise = -len(y) * log_noise - float(y @ y) / 2
    return Regression(x.T @ x, x.T @ y, of_noise + of_intercept, inclusion, slab_scale)


def _check_data(x: Tensor, y: Tensor) -> None:
    """Refuse inputs and targets that are empty, do not fit together or are not finite."""
    if x.dim() != 2 or x.numel() == 0:
        raise DataError(
            f"spike-and-slab regression: expected inputs of shape (N, d) with N > 0 and d > 0, found {tuple(x.shape)}; "
            "give one row an example and one column an input"
        )
    if y.shape != x.shape[:1]:
        raise DataError(
            f"spike-and-slab regression: expected one target for each of {len(x)} examples in shape ({len(x)},), "
            f"found {tuple(y.shape)}; give y[:, 0] where targets have a second dimension"
        )
    for name, values in (("inputs", x), ("targets", y)):
        bad = ~torch.isfinite(values)
        if bad.any():
            raise DataError(
                f"spike-and-slab regression: expected finite {name}, found {int(bad.sum())} NaN or infinite values, "
                f"first in example {int(bad.nonzero()[0, 0])}; drop or impute those examples"
            )


def _prior(inclusion: Tensor | np.ndarray | float, num_inputs: int) -> Tensor:
    """One prior inclusion probability an input, checked."""
    prior = torch.as_tensor(inclusion, dtype=torch.float64, device="cpu").detach()
    if prior.shape not in ((), (num_inputs,)):
        raise ConfigError(
            f"spike-and-slab regression: inclusion must be one probability or one for each of {num_inputs} inputs, "
            f"got shape {tuple(prior.shape)}"
        )
    good = (prior >= 0) & (prior <= 1)
    if not good.all():
        found = prior[~good].flatten()[0].item()
        raise ConfigError(
            f"spike-and-slab regression: inclusion must be probabilities in [0, 1], got {found}; give π, not log γ"
        )
    return prior.expand(num_inputs)
