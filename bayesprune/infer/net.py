"""A gated network as a Bayesian model: Pyro model, guide and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.data.inputs import Inputs
from bayesprune.distributions import FlatteningPrior, GatePrior
from bayesprune.errors import ConfigError
from bayesprune.graph import check_gates, gates_of
from bayesprune.infer import effective_parameters, joint, objective, pyro_model
from bayesprune.infer.becoming_normal import give_weights
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.likelihoods import Likelihood, get_likelihood
from bayesprune.infer.model import GatedModel
from bayesprune.infer.outputs import LossOn
from bayesprune.infer.passes import Passes
from bayesprune.infer.posterior import asked_for
from bayesprune.infer.prediction import Prediction
from bayesprune.infer.targets import Targets
from bayesprune.layers import eval_mode, plain_parameters
from bayesprune.markup import html_table


class BayesianNet(GatedModel):
    """Network, prior and likelihood, as ordinary Pyro callables ``model(x, y=None)`` and ``guide(x, y=None)``.

    The model (method page, section "Model"): π_s ~ FlatteningPrior(log γ_s), ξ_s ~ Bernoulli(π_s), or with a fixed
    prior ξ_s ~ Bernoulli(λ_s); weights ~ Normal(0, 1/λ), y_i ~ likelihood(net(x_i; ξ)). The guide: ξ_s ~
    Bernoulli(θ_s), π a point mass at its optimum given θ, weights a point mass or Normal(μ, σ²) each. All gates of the
    network are one sample site, ``gates``, and all Normal weights are one, ``weights``. Both callables are scaled by
    1/N, so that every loss built on them is in nats per example.

    Args:
        net: Gated network, inputs ``(B, ...)``, one tensor or several; its weights, trained or not, are where training
            starts. Its gates and, with ``weights="normal"``, its layers are made part of this model, in place.
        likelihood: ``"categorical"``, ``"gaussian"``, ``"bernoulli"``, ``"poisson"`` or a `Likelihood`.
        num_data: N, the number of training examples.
        prior: Of the gates: `FlatteningPrior` or `FixedInclusion`, its ``log_gamma`` a scalar, or one entry a gate in
            the order of `gate_names`.
        weight_precision: λ, the precision of the prior of point weights.
        weights: Posterior of the weights: ``"point"``, the default, or ``"normal"`` for a Normal posterior of every
            weight of linear and convolution layers, see `layers.give_normal_slabs`.
        slab_scale: σ0, the standard deviation of the prior of Normal weights; ``None`` for one for each layer that is
            learned with them (empirical Bayes).
        slab: Another name of ``weights``.
        example_input: Inputs, shape ``(B, ...)`` (several in a tuple, or a dict by name), the first of which tells
            the shapes of all tensors; needed where gates run along several dimensions of one tensor. ``None`` to do
            without.
        loss_on: Which output the likelihood sees, and calls of this model give, where the network gives several: the
            index of one in a tuple, the key of one in a dict, or a function of them all.

    Attributes:
        net: The gated network. In eval mode, without a draw, it uses the mode of its gates and the means of its
            weights.
        weights_posterior: The posterior of the weights, `Point` or `Normal`.
        prior_given: Whether the caller gave the prior of the gates, so that no recommended price takes its place.
        branch_evaluations: How many branches (gates with one draw a batch) all passes with drawn gates have computed.

    Raises:
        ConfigError: for N < 1, λ < 0, an unknown posterior of weights or one that does not fit the layers, or a prior
            that does not fit the gates.
        GateError: for a network without a gate, or with a gate in a place where switching it off is not removal.
        TraceError: for a network whose forward pass cannot be followed.

    Examples:
        >>> from bayesprune import layers
        >>> net = nn.Sequential(layers.Linear(2, 3, gate="unit"), nn.ReLU(), nn.Linear(3, 1))
        >>> bnn = BayesianNet(net, "gaussian", num_data=100, prior=FlatteningPrior(4.0))
        >>> bnn(torch.zeros(5, 2)).shape, bnn.gate_names
        (torch.Size([5, 1]), ['0'])
    """

    @checked_arguments
    def __init__(
        self,
        net: nn.Module,
        likelihood: str | Likelihood = "categorical",
        *,
        num_data: int,
        prior: GatePrior | None = None,
        weight_precision: float = 1.0,
        weights: str | None = None,
        slab_scale: float | None = None,
        slab: str | None = None,
        example_input: Any = None,
        loss_on: LossOn = None,
    ):
        num_data = whole("BayesianNet: num_data", num_data, hint="it is the number of training examples")
        weight_precision = real("BayesianNet: weight_precision", weight_precision, 0, ends="[)")
        weights = asked_for(weights, slab, "point")
        if slab_scale is not None:
            slab_scale = real("BayesianNet: slab_scale", slab_scale, 0, hint="None learns it")
        likelihood = get_likelihood(likelihood)
        check_gates(net, example_input=example_input)
        given = prior is not None
        prior = _one_a_gate(
            FlatteningPrior(18.0) if prior is None else prior, sum(gate.size for gate in gates_of(net).values())
        )
        give_weights(net, weights, slab_scale)
        super().__init__(
            net,
            likelihood,
            prior,
            num_data=num_data,
            weight_precision=weight_precision,
            slab_scale=slab_scale,
            example_input=example_input,
            loss_on=loss_on,
        )
        self.prior_given = given

    def extra_repr(self) -> str:
        """What is inferred besides the network: N, the priors of gates and weights."""
        low, high = (self.log_gamma.min(), self.log_gamma.max()) if self.num_gates else (0.0, 0.0)
        prior = f"{self.prior_type.__name__}(log γ {low:.3g}" + (")" if low == high else f" to {high:.3g})")
        return f"num_data={self.num_data}, gates={self.num_gates}, prior={prior}, weights={self.weights_posterior.name}"

    def _repr_html_(self) -> str:
        """For notebooks: how many gates each module has, how many are expected to be on, and between what θ lie."""
        header = ("module", "gates", "expected on", "lowest θ", "highest θ")
        rows = [
            (name, str(len(theta)), f"{theta.sum():.1f}", f"{theta.min():.2f}", f"{theta.max():.2f}")
            for name, theta in self.gate_probs().items()
        ]
        return html_table(f"BayesianNet with {self.num_gates} gates", header, rows)

    # training ------------------------------------------------------------------------------------------------------

    def add_gradients(self) -> None:
        """After a backward pass, add what the priors of Normal weights and of the likelihood's parameters ask of them.

        A training loop of one's own that adds no `objective` to the data term calls this before a step of the weights.
        """
        objective.add_gradients(self)

    def effective_parameters(self) -> float:
        """Σ_w Θ_w (1 − σ_w²/σ0²), how many Normal weights the data determine (MacKay 1992); waits for the device."""
        return self.weights_posterior.effective_parameters(self.by_gate(self.theta.detach()))

    def uncounted_parameters(self, x: Inputs, y: Targets, share: float) -> float:
        """How many more parameters the fit takes than the objective counts, for `Likelihood.set_fitted_parameters`.

        Noise that is learned is to be σ² = R/(N − d), R the sum of the squared residuals and d the `degrees_of_freedom`
        of the fit, at most nine tenths of the residuals. With a share T of the divergence the objective itself takes T
        times `effective_parameters` off N; this is the difference. With all of the divergence (T = 1) it is at most 0:
        a mean field of weights that do the same calls noise what each of them leaves open, given the others, as often
        as there are weights. Of that d takes once what they do alike.

        Args:
            x: Training inputs, shape ``(B, ...)``, all of them or a sample, for which d is a lower bound.
            y: Their targets, as the likelihood takes them.
            share: T, how much of the divergence of Normal weights counts.

        Returns:
            The difference; 0 for noise that is known, and for networks too large to be linearised on some examples.
        """
        return effective_parameters.uncounted_parameters(self, x, y, share)

    # Pyro ----------------------------------------------------------------------------------------------------------

    def model(self, x: Any, y: Targets | None = None) -> Tensor:
        """Pyro model with sample sites ``gates`` (ξ) and ``obs`` (y), and the factor ``slab``.

        Under the flattening prior also ``inclusion`` (π), and with Normal weights ``weights`` (w). For `SVI` with
        `guide`; inference of other kinds takes `joint`.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets, first dimension B; ``None`` to sample them.

        Returns:
            The network's outputs.
        """
        return pyro_model.model(self, x, y)

    def guide(self, x: Any, y: Targets | None = None) -> None:
        """Pyro guide: π at its optimum given θ, ξ ~ Bernoulli(θ). `ProjectedSGD` keeps the param ``theta`` in [0, 1].

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Not looked at; Pyro hands a guide what it hands the model.

        Raises:
            ConfigError: if Pyro's parameter store holds the θ of another network.
        """
        pyro_model.guide(self, x)

    def joint(self, x: Any, y: Tensor | None = None) -> Tensor:
        """Pyro model of a whole data set as one joint density, p(ξ) p(w) Π_i p(y_i | x_i, ξ, w).

        For inference of one's own: importance sampling, conditioning, HMC over ``weights``. `model` is for `SVI` with
        `guide`: there terms are scaled by 1/N, each example of a batch has gates of its own, and weights count by the
        guide's probability that they are there, so that it is no density of the unknowns. This one is, and depends on
        nothing that the guide learns but σ0, where it is learned (as of the last `refresh`), and the likelihood's own
        parameters. The network is in eval mode: no dropout, normalisations by their running statistics.

        Sites:
            - ``gates``: ξ, shape ``(S,)``, one draw for the whole data set. Under a `FixedInclusion` prior
              P(ξ_s = 1) = λ_s; under a `FlatteningPrior` π is integrated out, P(ξ_s = 1) = E[π_s] = 1/log γ_s −
              1/(γ_s − 1). (`guide` has a point estimate of π instead, under which a gate costs log γ_s.)
            - ``weights``: w, shape ``(D,)``, all weights of the network, see `joint_weights`. Normal(0, σ0²) for Normal
              weights and Normal(0, 1/λ) for others.
            - ``obs``: y, in the plate ``data``.

        Args:
            x: Inputs of the data set, shape ``(N, ...)`` (several in a tuple, or a dict by name).
            y: Targets, first dimension N; ``None`` to sample them.

        Returns:
            The network's outputs.

        Raises:
            ConfigError: with λ = 0, if any weights are not Normal weights.
            DataError: for inputs that the network does not take, and targets that do not fit its outputs.
        """
        return joint.sample(self, x, y)

    def joint_weights(self, values: Tensor | None = None) -> dict[str, Tensor]:
        """By name in the network, values of the site ``weights`` of `joint`.

        Args:
            values: Shape ``(..., D)``; ``None`` for the present weights, of Normal weights the means.
        """
        weights = plain_parameters(self.net)
        return (
            {name: p.detach() for name, p in weights.items()}
            if values is None
            else joint.split_weights(weights, values)
        )

    # predictions ---------------------------------------------------------------------------------------------------

    def drawn_weights(self) -> AbstractContextManager[None]:
        """Within the context all passes use one draw of the Normal weights, for all examples alike."""
        return self.weights_posterior.drawn()

    @torch.no_grad()
    def predict(self, x: Any, num_samples: int = 32, *, batch_size: int | None = None) -> Prediction:
        """Posterior predictive in eval mode; gates and Normal weights drawn from the guide, once for all examples.

        Rows go through some at a time, which bounds memory. Every sample is one network for all rows and batches, and
        the random numbers drawn are those of one pass, so results differ by rounding alone.

        Several threads may call it at a time, and draw gates or weights of the same network besides, but not train it.

        Args:
            x: Inputs, shape ``(B, ...)``, as a tensor or an array of numpy (several in a tuple, or a dict by name), or
                a loader of batches ``inputs`` or ``(inputs, ...)``, in the order of its examples.
            num_samples: Number of posterior samples; 0 uses the mode of the gates and the means of the weights alone.
            batch_size: Rows in one pass; by default as many as have 2¹⁸ numbers, at least 32.

        Returns:
            Mean and samples; for classes also entropy and mutual information (`ClassPrediction`), for real targets
            and counts epistemic and aleatoric variance and intervals (`RealPrediction`, `CountPrediction`).

        Raises:
            ConfigError: for ``num_samples`` that is negative or no whole number, a ``batch_size`` below 1, and for a
                network that belongs to another by now.
            DataError: for inputs that are not finite or that the network does not take, and an empty loader.
        """
        self.check_owner()
        num_samples = whole("predict: num_samples", num_samples, 0)
        passes = Passes(self, self._sample, num_samples, batch_size)
        with eval_mode(self):
            outputs = passes(x)
        return self.likelihood.summarize(outputs)

    def _sample(self, parts: Sequence[Inputs]) -> Tensor:
        """Outputs of one network drawn from the posterior, for parts of the inputs, one after the other."""
        with self.drawn_weights():
            xi = GateDraws(self.theta.detach()).sample()
            return torch.cat([self(part, xi, skip=True) for part in parts])


def _one_a_gate(prior: GatePrior, gates: int) -> GatePrior:
    """The prior with a log γ for every gate, shape ``(gates,)``."""
    try:
        log_gamma = prior.log_gamma.detach().to(torch.float32).expand(gates).clone()
    except RuntimeError:
        raise ConfigError(
            f"BayesianNet: prior.log_gamma has shape {tuple(prior.log_gamma.shape)}, but the network has {gates} "
            "gates; give one number, or one a gate in the order of gate_names"
        ) from None
    return type(prior)(log_gamma=log_gamma)
