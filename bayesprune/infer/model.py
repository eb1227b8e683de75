"""What the objective is made of: a gated network, its likelihood, the prior of its gates, its posterior of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import as_inputs, each
from bayesprune.distributions import GatePrior
from bayesprune.infer.likelihoods import Likelihood
from bayesprune.infer.normal import Normal
from bayesprune.infer.outputs import LossOn
from bayesprune.infer.posterior import Point, WeightPosterior
from bayesprune.infer.trainable import TrainableNet
from bayesprune.layers import plain_parameters

LOG_SCALE_LR = 10.0
"""Learning rate of log σ relative to that of the weights."""


class GatedModel(TrainableNet):
    """A `TrainableNet` with prior and posterior.

    Args:
        net: The gated network; Normal layers in it have Normal weights, all others point weights.
        likelihood: p(y | outputs).
        prior: Of the gates, one ``log_gamma`` each, in the order of `gate_names`.
        num_data: N.
        weight_precision: λ of point weights.
        slab_scale: σ0 of Normal weights; ``None`` to learn it.
        example_input: See `BayesianNet`.
        loss_on: See `chosen`.

    Attributes:
        log_gamma: log γ of every gate, shape ``(S,)``, nats for the whole data set.
        prior_type: The class of the gates' prior, which tells what does not depend on log γ.
        weights_posterior: `Point` or `Normal`.
        weights_cost: D_s, what the Normal weights of each structure add to the divergence while it is on, as of the
            last `refresh`, shape ``(S,)``, nats for the whole data set.
    """

    log_gamma: Tensor
    weights_cost: Tensor
    weights_posterior: WeightPosterior

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood,
        prior: GatePrior,
        *,
        num_data: int,
        weight_precision: float,
        slab_scale: float | None,
        example_input: Any,
        loss_on: LossOn,
    ):
        super().__init__(net, likelihood, num_data, loss_on)
        self.weight_precision, self.slab_scale = weight_precision, slab_scale
        self.example_input = None if example_input is None else each(as_inputs(example_input)[:1], Tensor.clone)
        self.prior_type = type(prior)
        self.register_buffer("log_gamma", prior.log_gamma.to(self.theta.device))
        self.register_buffer("weights_cost", torch.zeros_like(self.log_gamma), persistent=False)
        self._follow_weights()

    def prior(self) -> GatePrior:
        """The prior of the gates, batch shape ``(S,)``: the hyper-prior on π, or that of ξ."""
        return self.prior_type(log_gamma=self.log_gamma)

    # prices --------------------------------------------------------------------------------------------------------

    @property
    def price(self) -> Tensor:
        """ρ_s = (log γ_s + D_s) / N, shape ``(S,)``: what keeping structure s costs, in nats per example.

        D_s is what the Normal weights of the structure add to the divergence, as of the last `refresh`.
        """
        return (self.log_gamma + self.weights_cost) / self.num_data

    def refresh(self, share: float = 1.0) -> None:
        """Let what the prior of Normal weights asks of them and of the gates follow θ, μ and σ; σ0, where learned, too.

        `fit` does so some times an epoch; a training loop of one's own should, too.

        Args:
            share: How much of their divergence from the prior counts.
        """
        found = self.weights_posterior.refresh(self.by_gate(self.theta.detach()), self.num_data / max(share, 1e-12))
        if found:
            cost = share * torch.cat([found[name] for name in self.gate_names])
            self.weights_cost = cost.detach().to(self.log_gamma)  # what has a history cannot be copied

    def _follow_weights(self) -> None:
        """Go on with the weights of the present network."""
        self.weights_posterior = Normal(self.net, self.slab_scale) if self._noise else Point()
        self.weights_cost = torch.zeros_like(self.log_gamma)
        self.refresh()

    # cuts ----------------------------------------------------------------------------------------------------------

    def replace(self, net: nn.Module, kept: Mapping[str, Tensor]) -> Tensor:
        """Go on with a smaller gated network, and with the prices of its gates, see `TrainableNet.replace`.

        Args:
            net: The network.
            kept: By gate name, which entries of the present gates it has left.
        """
        chosen = super().replace(net, kept)
        self.log_gamma = self.log_gamma[chosen]
        self._follow_weights()
        return chosen

    def snapshot(self) -> Callable[[], None]:
        """Remember weights, gates and prices as they are now, see `TrainableNet.snapshot`."""
        log_gamma, weights_cost, network_back = self.log_gamma.clone(), self.weights_cost, super().snapshot()

        def back() -> None:
            network_back()
            self.log_gamma = log_gamma
            self._follow_weights()
            self.weights_cost = weights_cost

        return back

    # parameters ----------------------------------------------------------------------------------------------------

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything that is trained but θ, for a torch optimiser: point weights decay by λ/N, others by nothing.

        What does not require a gradient is left out, and so is a group of nothing.
        """
        point, log_scales = list(self.point_weights().values()), self.weights_posterior.log_scales()
        known = {id(p) for p in [*point, *log_scales]}
        free = [p for p in self.trained().values() if id(p) not in known]
        decay = self.weight_precision / self.num_data
        groups = [
            {"params": [p for p in given if p.requires_grad], "weight_decay": weight_decay, "lr_factor": factor}
            for given, weight_decay, factor in ((point, decay, 1.0), (free, 0.0, 1.0), (log_scales, 0.0, LOG_SCALE_LR))
        ]
        return [group for group in groups if group["params"]]

    def point_weights(self) -> dict[str, nn.Parameter]:
        """The weights whose posterior is a point mass, by name."""
        normal = {id(p) for p in self.weights_posterior.means()}
        return {name: p for name, p in plain_parameters(self.net).items() if id(p) not in normal}
