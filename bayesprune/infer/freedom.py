"""How many parameters a fit has effectively spent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.infer.chosen import LossOn, chosen

ENTRIES = 2**25
"""How many entries a table of derivatives may have."""


def fitting_rows(entries: int) -> int:
    """How many examples may be looked at, each of which has so many derivatives."""
    return ENTRIES // max(1, entries)


@torch.no_grad()
def degrees_of_freedom(
    net: nn.Module,
    x: Inputs,
    scales: Mapping[str, Tensor],
    noise: Tensor,
    ridge: float = 1.0,
    num_data: int | None = None,
    weights: Tensor | None = None,
    loss_on: LossOn = None,
) -> float:
    """The trace of the map from targets to fit, tr K(K + ρI)⁻¹, K = J diag(s²) Jᵀ, of a network linearised where it is.

    For a linear model it is that of ridge regression, exactly (Hastie, Tibshirani & Friedman 2009, section 7.6). Unlike
    the number of parameters that are well determined one by one, it counts those once that do the same.

    Args:
        net: The network, in eval mode, inputs ``(B, ...)``.
        x: Examples that training sees, shape ``(B, ...)``.
        scales: By name, s of each entry of a parameter, broadcastable to it: the standard deviation of its prior. Other
            parameters count as known.
        noise: Standard deviation of the noise, broadcastable to an output without its batch dimension.
        ridge: ρ, how much the prior counts.
        num_data: N, of which ``x`` is a sample; ``None`` for all.
        weights: How much each example counts, shape ``(B,)``; ``None`` for all alike.
        loss_on: Which of several outputs is fitted to targets.

    Returns:
        At most B times the number of outputs, so of a sample a lower bound.
    """
    parameters = dict(net.named_parameters())
    free = {name: parameters[name].detach() for name in scales}
    fixed = {name: p.detach() for name, p in parameters.items() if name not in scales}

    def standardised(values: dict[str, Tensor], args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(net, {**fixed, **values}, args, kwargs)
        return (chosen(outputs, loss_on) / noise).flatten()

    args, kwargs = ((x,), {}) if isinstance(x, Tensor) else (x.args, x.kwargs)
    singles = tuple(t[:, None] for t in args), {name: t[:, None] for name, t in kwargs.items()}
    slopes = torch.func.vmap(torch.func.jacrev(standardised), (None, 0, 0))(free, *singles)
    columns = [(slopes[name] * scales[name].to(p)).flatten(2) for name, p in free.items()]
    table = torch.cat(columns, 2)
    if weights is not None:
        table = table * weights.to(table).sqrt()[:, None, None]
    table = table.flatten(0, 1).to("cpu", torch.float64)
    gram = table @ table.T if len(table) <= table.shape[1] else table.T @ table
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0) * ((num_data or len(x)) / len(x))
    return float((eigenvalues / (eigenvalues + ridge)).sum())
