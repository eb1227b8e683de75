"""Normal weights: their prior and their divergence from it, each weight counted while it is there.

A weight has q(w) = Normal(μ, σ²) while all gates are on that it needs, and the prior Normal(0, σ0²) otherwise, so its
Kullback-Leibler term is Θ_w KL(Normal(μ, σ²) ‖ Normal(0, σ0²)), Θ_w the probability that it is there: θ of the unit
that it leads to, times θ of the one that it comes from, times θ of the branch that holds it. (SS-IG, Jantre,
Bhattacharya & Maiti 2021, counts the first of the three alone; the bound holds for either, and is tighter here.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from bayesprune.distributions import normal_kl
from bayesprune.infer.posterior import WeightPosterior
from bayesprune.infer.presence_of_weights import WeightPresence, WeightShares
from bayesprune.infer.variances import Variances
from bayesprune.infer.weights import WeightDraws
from bayesprune.layers import NormalLayer, normal_layers

ABSENT = 1e-12
"""What a weight counts in the scale of its layer that is never there: a layer that is off as a whole has one too."""
LEAST_SCALE = 1e-6
"""Smallest σ0 that is learned."""


class Normal(WeightPosterior):
    """The Normal weights of a network as one vector, its prior and the divergence of the one from the other.

    Args:
        net: The network, with at least one layer of Normal weights.
        prior_scale: σ0; ``None`` for one a layer at its optimum, σ0² = Σ Θ(μ² + σ²) / Σ Θ (empirical Bayes).

    Examples:
        >>> from bayesprune import BayesianNet, layers
        >>> net = nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> weights = BayesianNet(net, "gaussian", num_data=10, weights="normal").weights_posterior
        >>> [tuple(mean.shape) for mean in weights.means()]
        [(3, 2), (3,), (1, 3), (1,)]
    """

    name = "normal"

    def __init__(self, net: nn.Module, prior_scale: float | None):
        self.layers = normal_layers(net)
        self.prior_scale = prior_scale
        self._presence = WeightPresence(net, self.layers)
        self._sizes = [p.numel() for p in self._parameters()[0]]
        self._learn_scales([torch.ones_like(p) for p in self._parameters()[0]])
        self._variances = Variances(self.layers.values())
        self._mean_slopes: list[tuple[nn.Parameter, Tensor]] = []
        self._scale_slopes: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def means(self) -> list[nn.Parameter]:
        """μ of all Normal weights."""
        return self._parameters()[0]

    def log_scales(self) -> list[nn.Parameter]:
        """Log σ of all Normal weights."""
        return self._parameters()[1]

    def _parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Means and log scales, weight and bias of one layer after another."""
        means: list[nn.Parameter] = []
        log_scales: list[nn.Parameter] = []
        for layer in self.layers.values():
            means.append(layer.weight)
            log_scales.append(layer.weight_log_scale)
            if layer.bias is not None and layer.bias_log_scale is not None:
                means.append(layer.bias)
                log_scales.append(layer.bias_log_scale)
        return means, log_scales

    def cache_variances(self, learn: bool) -> None:
        """Before a pass of training: give the layers their variances, see `Variances.give`."""
        self._variances.give(self.log_scales(), learn)

    def drop_variances(self) -> None:
        """Let the layers compute their variances in every pass again."""
        self._variances.drop()

    # the divergence ------------------------------------------------------------------------------------------------

    def divergence(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Σ_w Θ_w KL(Normal(μ, σ²) ‖ Normal(0, σ0²)), nats for the whole data set; differentiable in θ, μ and log σ.

        Args:
            theta: By gate name, the inclusion probabilities, shape ``(size,)``.
        """
        means, log_scales = self._parameters()
        tables = self._tables(theta)
        total = torch.zeros((), device=means[0].device)
        for mean, log_scale, table, scale in zip(means, log_scales, tables, self.prior_scales(), strict=True):
            total = total + (table * normal_kl(mean, log_scale, scale)).sum()
        return total

    def _tables(self, theta: Mapping[str, Tensor]) -> list[Tensor]:
        """Θ of every mean, each broadcastable to it."""
        shares, _ = self._presence({name: t.to("cpu", torch.float64) for name, t in theta.items()})
        return self._presence.tables(shares)

    def prior_scales(self) -> list[Tensor]:
        """σ0 of every mean."""
        each = []
        for layer, scale in zip(self.layers.values(), self.scales, strict=True):
            each += [scale.to(layer.weight.device)] * (1 if layer.bias is None else 2)
        return each

    def refresh(self, theta: Mapping[str, Tensor], num_data: float) -> dict[str, Tensor]:
        """Take note that θ moved: σ0, and the shares by which the prior pulls each weight.

        Args:
            theta: By gate name, the inclusion probabilities, shape ``(size,)``.
            num_data: N.

        Returns:
            By gate name, what its structures add to the divergence while they are on, nats for the whole data set.
        """
        leaves = {name: t.detach().to("cpu", torch.float64).requires_grad_() for name, t in theta.items()}
        shares, computed = self._presence(leaves)
        self._learn_scales(self._presence.tables(shares))
        total = torch.zeros((), dtype=torch.float64)
        for layer, (rows, columns), scale in zip(self.layers.values(), shares, self.scales, strict=True):
            total = total + _weighed(layer, rows, columns, scale)
        self._set_slopes(computed, num_data)
        if not total.requires_grad:
            return {name: torch.zeros_like(t) for name, t in leaves.items()}
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, gradients, strict=True))

    @torch.no_grad()
    def _learn_scales(self, tables: Sequence[Tensor]) -> None:
        """σ0 of every layer: as given, or at its optimum; bias and weights of a layer share it."""
        means, log_scales = self._parameters()
        if self.prior_scale is not None:
            dtype = torch.promote_types(means[0].dtype, torch.float32)
            self.scales = [torch.full((), self.prior_scale, dtype=dtype, device=means[0].device) for _ in self.layers]
            return
        squares, counts = [], []
        for mean, log_scale, table in zip(means, log_scales, tables, strict=True):
            share = table + ABSENT
            squares.append((share * (mean.square() + (2 * log_scale).exp())).sum())
            counts.append(share.expand_as(mean).sum())
        self.scales, at = [], 0
        for layer in self.layers.values():
            stop = at + (1 if layer.bias is None else 2)
            square = torch.stack(squares[at:stop]).sum() / torch.stack(counts[at:stop]).sum()
            self.scales.append(square.clamp(min=LEAST_SCALE**2).sqrt())
            at = stop

    @torch.no_grad()
    def _set_slopes(self, shares: Sequence[WeightShares], num_data: float) -> None:
        """Of branches only the share while they are on: weights of one that is skipped get no gradient in that step."""
        means, log_scales = self._parameters()
        tables = self._presence.tables(shares)
        self._mean_slopes, self._scale_slopes = [], []
        for mean, log_scale, table, scale in zip(means, log_scales, tables, self.prior_scales(), strict=True):
            share = (table / num_data).expand_as(mean).contiguous()
            self._mean_slopes.append((mean, share / scale.square()))
            self._scale_slopes.append((log_scale, share, self._mean_slopes[-1][1]))

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the derivative of the divergence over N to the gradients of all means and log scales that have one."""
        slopes = [(mean.grad, mean, share) for mean, share in self._mean_slopes if mean.grad is not None]
        if slopes:
            gradients, means, shares = zip(*slopes, strict=True)
            torch._foreach_addcmul_(gradients, means, shares)
        for index, (log_scale, share, scaled) in enumerate(self._scale_slopes):
            if log_scale.grad is not None:
                variance = self._variances.values[index] if self._variances.values else (2 * log_scale).exp()
                log_scale.grad.addcmul_(variance, scaled).sub_(share)

    # draws ---------------------------------------------------------------------------------------------------------

    def moments(self) -> tuple[Tensor, Tensor]:
        """μ and σ of all Normal weights as vectors of shape ``(D,)``, differentiable."""
        means, log_scales = self._parameters()
        return torch.cat([p.flatten() for p in means]), torch.cat([p.flatten() for p in log_scales]).exp()

    def prior_scale_vector(self) -> Tensor:
        """σ0 of all Normal weights, shape ``(D,)``."""
        return torch.cat([scale.expand(size) for scale, size in zip(self.prior_scales(), self._sizes, strict=True)])

    def presence(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Θ of all Normal weights, shape ``(D,)``, differentiable in θ."""
        pairs = zip(self._tables(theta), self.means(), strict=True)
        return torch.cat([table.expand_as(mean).flatten() for table, mean in pairs])

    @torch.no_grad()
    def effective_parameters(self, theta: Mapping[str, Tensor]) -> float:
        """Σ_w Θ_w (1 − σ_w²/σ0²), terms below 0 left out."""
        known = (1 - (self.moments()[1] / self.prior_scale_vector()).square()).clamp(min=0)
        return float((self.presence(theta) * known).sum())

    @torch.no_grad()
    def prior_spreads(self, theta: Mapping[str, Tensor]) -> list[Tensor]:
        """σ0 √Θ of every mean, in the order of `means`, each broadcastable to it."""
        return [
            scale * table.sqrt().to(scale)
            for scale, table in zip(self.prior_scales(), self._tables(theta), strict=True)
        ]

    @contextmanager
    def pyro_model(self, theta: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context passes compute with the weights of the site ``weights``, drawn from the prior."""
        zero = torch.zeros_like(self.moments()[0])
        weights = pyro.sample("weights", WeightDraws(zero, self.prior_scale_vector(), self.presence(theta)))
        with self.drawn(weights):
            yield

    def pyro_guide(self, theta: Mapping[str, Tensor]) -> None:
        """Sample the site ``weights`` from the posterior."""
        pyro.sample("weights", WeightDraws(*self.moments(), self.presence(theta)))

    @contextmanager
    def drawn(self, weights: Tensor | None = None) -> Iterator[None]:
        """Within the context all passes compute with these weights, for all examples alike.

        Args:
            weights: Shape ``(D,)``; ``None`` to draw them from the posterior.
        """
        parts: Iterator[Any] = iter(() if weights is None else weights.split(self._sizes))
        try:
            for layer in self.layers.values():
                if weights is None:
                    layer.draw_weights()
                else:
                    weight = next(parts).view_as(layer.weight)
                    layer.drawn = weight, None if layer.bias is None else next(parts)
            yield
        finally:
            for layer in self.layers.values():
                layer.drop_weights()


def _weighed(layer: NormalLayer, rows: Tensor | None, columns: Tensor | None, scale: Tensor) -> Tensor:
    """The divergence of a layer, each weight by the share of its output and of its input; differentiable in these."""
    with torch.no_grad():
        table = normal_kl(layer.weight, layer.weight_log_scale, scale)
        table = table.reshape(*table.shape[:2], -1).sum(-1).to("cpu", torch.float64)
        bias = torch.zeros(len(table), dtype=torch.float64)
        if layer.bias is not None and layer.bias_log_scale is not None:
            bias = normal_kl(layer.bias, layer.bias_log_scale, scale).to(bias)
    by_row = bias + (table.sum(1) if columns is None else table @ columns.expand(table.shape[1]))
    return by_row.sum() if rows is None else (rows.expand(len(table)) * by_row).sum()
