"""A gated network as a Bayesian model: Pyro model, guide and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.data.inputs import Inputs, as_inputs, each
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError
from bayesprune.graph import check_gates, gates_of
from bayesprune.infer.adopt import adopt, remembered
from bayesprune.infer.chosen import LossOn
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.freedom import degrees_of_freedom, fitting_rows
from bayesprune.infer.gated import GatedNet
from bayesprune.infer.joint import Joint, split_weights
from bayesprune.infer.likelihoods import Likelihood, get_likelihood
from bayesprune.infer.passes import Passes
from bayesprune.infer.prediction import Prediction, summarize
from bayesprune.infer.slabs import NormalSlabs
from bayesprune.infer.targets import Targets, weights_of
from bayesprune.infer.weights import WeightDraws
from bayesprune.layers import eval_mode, give_normal_slabs, normal_layers, plain_parameters

SLABS = ("point", "normal")
LOG_SCALE_LR = 10.0
"""Learning rate of log σ relative to that of the weights."""
MOST_SPENT = 0.9
"""Which share of the residuals a fit may take from the noise at most."""
FEWEST_ROWS = 64
"""Of how few examples the degrees of freedom are not worth counting, unless they are all."""
INITIAL_SCALE = 0.5
"""σ of Normal weights at the start, relative to the root mean square of their layer's weights."""


class BayesianNet(GatedNet):
    """Network, prior and likelihood, as ordinary Pyro callables ``model(x, y=None)`` and ``guide(x, y=None)``.

    The model (method page, section "Model"): π_s ~ FlatteningPrior(log γ_s), ξ_s ~ Bernoulli(π_s), or with a fixed
    prior ξ_s ~ Bernoulli(λ_s); weights ~ Normal(0, 1/λ), y_i ~ likelihood(net(x_i; ξ)). The guide: ξ_s ~
    Bernoulli(θ_s), π a point mass at its optimum given θ, weights a point mass (point slab) or Normal(μ, σ²) each
    (Gaussian slab). All gates of the network are one sample site, ``gates``, and all Normal weights are one,
    ``weights``. Both callables are scaled by 1/N, so that every loss built on them is in nats per example.

    Args:
        net: Gated network, inputs ``(B, ...)``, one tensor or several; its weights, trained or not, are where training
            starts. Its gates and, with ``slab="normal"``, its layers are made part of this model, in place.
        likelihood: ``"categorical"``, ``"gaussian"``, ``"bernoulli"`` or a `Likelihood`.
        num_data: N, the number of training examples.
        prior: Of the gates: `FlatteningPrior` or `FixedInclusion`, its ``log_gamma`` a scalar, or one entry a gate in
            the order of `gate_names`.
        weight_precision: λ, the precision of the prior of point weights.
        slab: ``"point"``, or ``"normal"`` for a Normal posterior of every weight of linear and convolution layers.
        slab_scale: σ0, the standard deviation of the prior of Normal weights; ``None`` for one for each layer that is
            learned with them (empirical Bayes).
        example_input: Inputs, shape ``(B, ...)`` (several in a tuple, or a dict by name), the first of which tells
            the shapes of all tensors; needed where gates run along several dimensions of one tensor. ``None`` to do
            without.
        loss_on: Which output the likelihood sees, and calls of this model give, where the network gives several: the
            index of one in a tuple, the key of one in a dict, or a function of them all.

    Attributes:
        net: The gated network. In eval mode, without a draw, it uses the mode of its gates and the means of its
            weights.
        slabs: The Normal weights; ``None`` for point slabs.
        branch_evaluations: How many branches (gates with one draw a batch) all passes with drawn gates have computed.

    Raises:
        ConfigError: for N < 1, λ < 0, an unknown slab or one that does not fit the layers, or a prior that does not fit
            the gates.
        GateError: for a network without a gate, or with a gate in a place where switching it off is not removal.
        TraceError: for a network whose forward pass cannot be followed.
    """

    log_gamma: Tensor
    slab_cost: Tensor

    @checked_arguments
    def __init__(
        self,
        net: nn.Module,
        likelihood: str | Likelihood = "categorical",
        *,
        num_data: int,
        prior: FlatteningPrior | FixedInclusion | None = None,
        weight_precision: float = 1.0,
        slab: str = "point",
        slab_scale: float | None = None,
        example_input: Any = None,
        loss_on: LossOn = None,
    ):
        num_data = whole("BayesianNet: num_data", num_data, hint="it is the number of training examples")
        weight_precision = real("BayesianNet: weight_precision", weight_precision, 0, ends="[)")
        if slab not in SLABS:
            raise ConfigError(f"BayesianNet: unknown slab {slab!r}; known are {', '.join(SLABS)}")
        if slab_scale is not None:
            slab_scale = real("BayesianNet: slab_scale", slab_scale, 0, hint="None learns it")
        likelihood = get_likelihood(likelihood)
        prior = FlatteningPrior(18.0) if prior is None else prior
        check_gates(net, example_input=example_input)
        log_gamma = _one_a_gate(prior, sum(gate.size for gate in gates_of(net).values()))
        if slab == "point" and slab_scale is not None:
            raise ConfigError("BayesianNet: slab_scale is the scale of Normal weights; pass slab='normal' with it")
        if slab == "point" and normal_layers(net):
            raise ConfigError("BayesianNet: the network's weights are Normal already; pass slab='normal'")
        if slab == "normal":
            give_normal_slabs(net, INITIAL_SCALE)
        if slab == "normal" and not normal_layers(net):
            raise ConfigError(
                "BayesianNet: slab='normal' needs a linear or convolution layer with weights of its own, and the "
                "network has none; take slab='point'"
            )
        super().__init__(net, loss_on)
        self.likelihood = likelihood
        self._learns_likelihood = any(True for _ in self.likelihood.parameters())
        self.num_data, self.weight_precision = num_data, weight_precision
        self.slab, self.slab_scale = slab, slab_scale
        self.example_input = None if example_input is None else each(as_inputs(example_input)[:1], Tensor.clone)
        self.fixed_prior = isinstance(prior, FixedInclusion)
        self.register_buffer("log_gamma", log_gamma.to(self.theta.device))
        self.register_buffer("slab_cost", torch.zeros_like(self.log_gamma), persistent=False)
        self._give_slabs()

    # prices --------------------------------------------------------------------------------------------------------

    @property
    def price(self) -> Tensor:
        """ρ_s = (log γ_s + D_s) / N, shape ``(S,)``: what keeping structure s costs, in nats per example.

        D_s is what the Normal weights of the structure add to the divergence, as of the last `refresh`.
        """
        if self.slabs is None:
            return self.log_gamma / self.num_data
        return (self.log_gamma + self.slab_cost) / self.num_data

    def refresh(self, share: float = 1.0) -> None:
        """Let what the prior of Normal weights asks of them and of the gates follow θ, μ and σ; σ0, where learned, too.

        `fit` does so some times an epoch; a training loop of one's own should, too.

        Args:
            share: How much of their divergence from the prior counts.
        """
        if self.slabs is not None:
            found = self.slabs.refresh(self.by_gate(self.theta.detach()), self.num_data / max(share, 1e-12))
            if found:
                self.slab_cost = share * torch.cat([found[name] for name in self.gate_names]).to(self.log_gamma)

    def _give_slabs(self) -> None:
        """Go on with the Normal weights of the present network."""
        self.slabs: NormalSlabs | None = None
        self.slab_cost = torch.zeros_like(self.log_gamma)
        if self._noise:
            self.slabs = NormalSlabs(self.net, self.slab_scale)
            self.refresh()

    def effective_parameters(self) -> float:
        """Σ_w Θ_w (1 − σ_w²/σ0²), how many Normal weights the data determine (MacKay 1992); waits for the device."""
        return 0.0 if self.slabs is None else self.slabs.effective(self.by_gate(self.theta.detach()))

    @torch.no_grad()
    def uncounted_parameters(self, x: Inputs, y: Targets, share: float) -> float:
        """How many more parameters the fit takes than a cold posterior counts, for `Likelihood.spend`.

        Noise that is learned is to be σ² = R/(N − d), R the sum of the squared residuals and d the `degrees_of_freedom`
        of the fit, at most nine tenths of the residuals. With a share T of the divergence the objective itself takes T
        times `effective_parameters` off N; this is the difference. With all of the divergence (T = 1) the noise is that
        of the evidence lower bound, and there is none.

        Args:
            x: Training inputs, shape ``(B, ...)``, all of them or a sample, for which d is a lower bound.
            y: Their targets, as the likelihood takes them.
            share: T, how much of the divergence of Normal weights counts.

        Returns:
            The difference; 0 for noise that is known, and for networks too large to be linearised on some examples.
        """
        noise = self.likelihood.learned_noise
        if noise is None or self.slabs is None or share >= 1:
            return 0.0
        names = {id(p): name for name, p in self.net.named_parameters()}
        spreads = self.slabs.spreads(self.by_gate(self.theta.detach()))
        scales = {names[id(p)]: spread for p, spread in zip(self.slabs.means(), spreads, strict=True)}
        with eval_mode(self):
            outputs = self(x[:1]).numel()
            rows = fitting_rows(outputs * sum(p.numel() for p in self.slabs.means()))
            if rows < min(len(x), FEWEST_ROWS):
                return 0.0
            weights = weights_of(self.likelihood, y[:rows])
            d = degrees_of_freedom(self.net, x[:rows], scales, noise, share, self.num_data, weights, self.loss_on)
        return min(d, MOST_SPENT * self.num_data * outputs) - share * self.effective_parameters()

    def pull(self) -> None:
        """Add to the gradients what the priors of Normal weights and of the likelihood's parameters ask of them."""
        if self.slabs is not None:
            self.slabs.pull()
        penalty = self.likelihood.penalty() if self._learns_likelihood else 0.0
        if isinstance(penalty, Tensor) and penalty.requires_grad:
            (penalty / self.num_data).backward()  # type: ignore[no-untyped-call]

    def replace(self, net: nn.Module, kept: Mapping[str, Tensor]) -> Tensor:
        """Go on with a smaller gated network, which the module that this model was built of becomes, see `adopt`.

        Args:
            net: The network, made of copies of the modules of the present one.
            kept: By gate name, which entries of the present gates it has left.

        Returns:
            The entries of the present `theta` that are left, shape ``(S',)``.
        """
        places = self.by_gate(torch.arange(self.num_gates))
        self.net = adopt(self.net, net)
        self._connect()
        entries = [places[name][kept[name]] for name in self.gate_names]
        chosen = torch.cat([torch.zeros(0, dtype=torch.long), *entries]).to(self.log_gamma.device)
        self.log_gamma = self.log_gamma[chosen]
        self._give_slabs()
        return chosen

    def snapshot(self) -> Callable[[], None]:
        """Remember weights, gates and prices as they are now.

        Returns:
            A function that brings them back, with structures that went in the meantime.
        """
        net, log_gamma, slab_cost = self.net, self.log_gamma.clone(), self.slab_cost
        parts = remembered(net), remembered(self.likelihood)

        def back() -> None:
            for part in parts:
                part()
            self.net, self.log_gamma = net, log_gamma
            self._connect()
            self._theta.grad = None
            self._give_slabs()
            self.slab_cost = slab_cost

        return back

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything that is trained but θ, for a torch optimiser: point weights decay by λ/N, others by nothing.

        What does not require a gradient is left out, and so is a group of nothing.
        """
        point, log_scales = list(self.point_weights().values()), [] if self.slabs is None else self.slabs.log_scales()
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
        normal = set() if self.slabs is None else {id(p) for p in self.slabs.means()}
        return {name: p for name, p in plain_parameters(self.net).items() if id(p) not in normal}

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that is trained but θ, by name: weights, and parameters of the likelihood."""
        return self.weights() | {f"likelihood.{name}": p for name, p in self.likelihood.named_parameters()}

    # Pyro ----------------------------------------------------------------------------------------------------------

    def prior(self) -> FlatteningPrior | FixedInclusion:
        """The prior of the gates, batch shape ``(S,)``: the hyper-prior on π, or that of ξ."""
        return FixedInclusion(log_gamma=self.log_gamma) if self.fixed_prior else FlatteningPrior(self.log_gamma)

    def gate_divergence(self, theta: Tensor) -> Tensor:
        """Σ_s of what gates add to the negative ELBO besides θ_s log γ_s, nats for the whole data set.

        A constant for the flattening prior, Σ_s −H(θ_s) − log(1 − λ_s) for a fixed one. Differentiable in θ, with the
        slope of the entropy at 0 and 1 that at 1e-6 and 1 − 1e-6.
        """
        inner = theta + (0.5 - theta) * 2e-6 if self.fixed_prior else theta.detach()
        return (self.prior().penalty(inner) - inner * self.log_gamma).sum()

    def slab_penalty(self) -> Tensor:
        """What weights add to the negative ELBO, nats per example.

        λ/(2N) ‖M‖² for point weights M, their negative log density up to a constant; for Normal weights the divergence
        Σ_w Θ_w KL(Normal(μ, σ²) ‖ Normal(0, σ0²)) / N; and the penalty of the likelihood's own parameters over N.
        """
        return self._point_penalty() + self.slab_divergence(self.theta.detach()) / self.num_data

    def slab_divergence(self, theta: Tensor) -> Tensor:
        """Σ_w Θ_w KL(Normal(μ, σ²) ‖ Normal(0, σ0²)), nats for the whole data set; differentiable, 0 for points."""
        if self.slabs is None:
            return torch.zeros((), device=self.theta.device)
        return self.slabs.divergence(self.by_gate(theta))

    def _point_penalty(self) -> Tensor:
        """Negative log density of point weights and of the likelihood's parameters, over N, up to a constant."""
        total = torch.zeros((), device=self.theta.device)
        for p in self.point_weights().values():
            total = total + p.to(torch.promote_types(p.dtype, torch.float32)).square().sum()
        return (total * (self.weight_precision / 2) + self.likelihood.penalty()) / self.num_data

    @contextmanager
    def drawn_weights(self) -> Iterator[None]:
        """Within the context all passes use one draw of the Normal weights, for all examples alike."""
        if self.slabs is None:
            yield
        else:
            with self.slabs.drawn():
                yield

    def model(self, x: Any, y: Tensor | None = None) -> Tensor:
        """Pyro model with sample sites ``gates`` (ξ) and ``obs`` (y), and the factor ``slab``.

        Under the flattening prior also ``inclusion`` (π), and with Gaussian slabs ``weights`` (w). For `SVI` with
        `guide`; inference of other kinds takes `joint`.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets, first dimension B; ``None`` to sample them.

        Returns:
            The network's outputs.
        """
        x = as_inputs(x)
        pyro.module("net", self.net)
        if self.likelihood.state_dict():
            pyro.module("likelihood", self.likelihood)
        prior = self.prior()
        with poutine.scale(scale=1 / self.num_data):
            fixed = isinstance(prior, FixedInclusion)
            pi = prior.probs if fixed else pyro.sample("inclusion", prior.to_event(1))
            xi = pyro.sample("gates", GateDraws(pi, self.rows(x), self.num_shared))
            pyro.factor("slab", -self.num_data * self._point_penalty())
            with self._sampled_weights(guide=False):
                outputs = self(x, xi)
            if y is not None:
                self.likelihood.check_shape(outputs, y)
            with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=self.num_data / len(x)):
                pyro.sample(
                    "obs", self.likelihood.distribution(outputs), obs=None if y is None else self.likelihood.observed(y)
                )
        return outputs

    def guide(self, x: Any, y: Tensor | None = None) -> None:
        """Pyro guide: π at its optimum given θ, ξ ~ Bernoulli(θ). `ProjectedSGD` keeps the param ``theta`` in [0, 1].

        Raises:
            ConfigError: if Pyro's parameter store holds the θ of another network.
        """
        x = as_inputs(x)
        theta = pyro.param("theta", self.theta)
        if theta is not self.theta:
            raise ConfigError(
                "guide: Pyro's parameter store holds 'theta' of another (or an earlier, larger) network; call "
                "pyro.clear_param_store() before training a new one"
            )
        with poutine.scale(scale=1 / self.num_data):
            prior = self.prior()
            if isinstance(prior, FlatteningPrior):
                pyro.sample("inclusion", dist.Delta(prior.optimal(theta)).to_event(1))
            pyro.sample("gates", GateDraws(theta, self.rows(x), self.num_shared))
            with self._sampled_weights(guide=True):
                pass

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
        weights = plain_parameters(self.net)
        scales = {name: torch.tensor(self.weight_precision).rsqrt() for name in self.point_weights()}
        if self.slabs is not None:
            names = {id(p): name for name, p in weights.items()}
            pairs = zip(self.slabs.means(), self.slabs.scale_of_each(), strict=True)
            scales |= {names[id(mean)]: scale for mean, scale in pairs}
        return Joint(self, self.likelihood, self.prior(), weights, scales, self.slabs)(as_inputs(x), y)

    def joint_weights(self, values: Tensor | None = None) -> dict[str, Tensor]:
        """By name in the network, values of the site ``weights`` of `joint`.

        Args:
            values: Shape ``(..., D)``; ``None`` for the present weights, of Normal weights the means.
        """
        weights = plain_parameters(self.net)
        return {name: p.detach() for name, p in weights.items()} if values is None else split_weights(weights, values)

    @contextmanager
    def _sampled_weights(self, guide: bool) -> Iterator[None]:
        """Compute within the context with the site ``weights``, if there are Normal weights."""
        if self.slabs is None:
            yield
            return
        mean, scale = self.slabs.posterior()
        if not guide:
            mean, scale = torch.zeros_like(mean), self.slabs.prior()
        weights = pyro.sample("weights", WeightDraws(mean, scale, self.slabs.presence(self.by_gate(self.theta))))
        with self.slabs.drawn(weights):
            yield

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
            epistemic and aleatoric variance and intervals (`RealPrediction`).

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
        return summarize(self.likelihood, outputs)

    def _sample(self, parts: Sequence[Inputs]) -> Tensor:
        """Outputs of one network drawn from the posterior, for parts of the inputs, one after the other."""
        with self.drawn_weights():
            xi = GateDraws(self.theta.detach()).sample()
            return torch.cat([self(part, xi, skip=True) for part in parts])


def _one_a_gate(prior: FlatteningPrior | FixedInclusion, gates: int) -> Tensor:
    """Log γ of every gate, shape ``(gates,)``."""
    try:
        return prior.log_gamma.detach().to(torch.float32).expand(gates).clone()
    except RuntimeError:
        raise ConfigError(
            f"BayesianNet: prior.log_gamma has shape {tuple(prior.log_gamma.shape)}, but the network has {gates} "
            "gates; give one number, or one a gate in the order of gate_names"
        ) from None
