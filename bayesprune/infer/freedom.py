"""How many parameters a fit has effectively spent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

ENTRIES = 2**25
"""How many entries the table of derivatives may have; of larger networks fewer examples are looked at."""


@torch.no_grad()
def degrees_of_freedom(
    net: nn.Module,
    x: Tensor,
    scales: Mapping[str, Tensor],
    noise: Tensor,
    ridge: float = 1.0,
    num_data: int | None = None,
) -> float:
    """The trace of the map from targets to fit, tr K(K + ρI)⁻¹, K = J diag(s²) Jᵀ, of a network linearised where it is.

    For a linear model it is that of ridge regression, exactly (Hastie, Tibshirani & Friedman 2009, section 7.6). Unlike
    the number of parameters that are well determined one by one, it counts those once that do the same.

    Args:
        net: The network, in eval mode, inputs ``(B, ...)``.
        x: Examples that training sees, shape ``(B, ...)``; as many of the first are used as there is memory for.
        scales: By name, s of each entry of a parameter, broadcastable to it: the standard deviation of its prior. Other
            parameters count as known.
        noise: Standard deviation of the noise, broadcastable to an output without its batch dimension.
        ridge: ρ, how much the prior counts.
        num_data: N, of which ``x`` is a sample; ``None`` for all.

    Returns:
        At most B times the number of outputs.
    """
    parameters = dict(net.named_parameters())
    free = {name: parameters[name].detach() for name in scales}
    fixed = {name: p.detach() for name, p in parameters.items() if name not in scales}
    outputs = net(x[:1])[0].numel()
    x = x[: max(1, ENTRIES // max(1, outputs * sum(p.numel() for p in free.values())))]

    def standardised(values: dict[str, Tensor], example: Tensor) -> Tensor:
        return (torch.func.functional_call(net, {**fixed, **values}, (example[None],))[0] / noise).flatten()

    slopes = torch.func.vmap(torch.func.jacrev(standardised), (None, 0))(free, x)
    columns = [(slopes[name] * scales[name].to(p)).flatten(2).flatten(0, 1) for name, p in free.items()]
    table = torch.cat(columns, 1).double()
    eigenvalues = torch.linalg.svdvals(table).square() * ((num_data or len(x)) / len(x))
    return float((eigenvalues / (eigenvalues + ridge)).sum())
