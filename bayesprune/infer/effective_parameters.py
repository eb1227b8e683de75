"""How many parameters a fit has taken from its data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs
from bayesprune.infer.model import GatedModel
from bayesprune.infer.outputs import LossOn, chosen
from bayesprune.infer.targets import Targets, weights_of
from bayesprune.layers import eval_mode

MOST_TAKEN = 0.9
"""Which share of the residuals a fit may take from the noise at most."""
FEWEST_ROWS = 64
"""Of how few examples the degrees of freedom are not worth counting, unless they are all."""
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
) -> tuple[float, float]:
    """The trace of the map from targets to fit, tr K(K + ρI)⁻¹, K = J diag(s²) Jᵀ, of a network linearised where it is.

    For a linear model it is that of ridge regression, exactly (Hastie, Tibshirani & Friedman 2009, section 7.6). Unlike
    the number of parameters that are well determined one by one, Σ k/(k + ρ) over the diagonal k of diag(s) Jᵀ J
    diag(s), it counts those once that do the same.

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
        The trace, at most B times the number of outputs, so of a sample a lower bound; and the sum over parameters one
        by one, which is not below it for all examples.
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
    table = table.flatten(0, 1).to("cpu", torch.float64) * ((num_data or len(x)) / len(x)) ** 0.5
    gram = table @ table.T if len(table) <= table.shape[1] else table.T @ table
    eigenvalues, alone = torch.linalg.eigvalsh(gram).clamp(min=0), table.square().sum(0)
    return float((eigenvalues / (eigenvalues + ridge)).sum()), float((alone / (alone + ridge)).sum())


@torch.no_grad()
def uncounted_parameters(net: GatedModel, x: Inputs, y: Targets, share: float) -> float:
    """How many more parameters the fit takes than the objective counts, see `BayesianNet.uncounted_parameters`.

    Args:
        net: The model.
        x: Training inputs, shape ``(B, ...)``.
        y: Their targets.
        share: T, how much of the divergence of Normal weights counts.
    """
    noise, posterior = net.likelihood.learned_noise, net.weights_posterior
    if noise is None or not posterior.means() or (share >= 1 and noise.numel() > 1):
        return 0.0  # at T = 1 a count of all targets is not that of each, which may have another noise
    names = {id(p): name for name, p in net.net.named_parameters()}
    theta = net.by_gate(net.theta.detach())
    spreads = posterior.prior_spreads(theta)
    scales = {names[id(p)]: spread for p, spread in zip(posterior.means(), spreads, strict=True)}
    with eval_mode(net):
        outputs = net(x[:1]).numel()
        number = sum(p.numel() for p in posterior.means())
        rows = fitting_rows(outputs * number)
        if rows < min(len(x), FEWEST_ROWS):
            return 0.0
        weights = weights_of(y[:rows])
        d, alone = degrees_of_freedom(net.net, x[:rows], scales, noise, share, net.num_data, weights, net.loss_on)
    if share >= 1:
        seen = min(rows, len(x)) * outputs  # of too few residuals d says too little beside what parameters say alone
        return min(0.0, d - alone) if seen >= min(net.num_data * outputs, 2 * number) else 0.0
    return min(d, MOST_TAKEN * net.num_data * outputs) - share * posterior.effective_parameters(theta)
