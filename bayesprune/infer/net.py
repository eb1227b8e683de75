"""A gated network as a Bayesian model: Pyro model, guide and predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import ConfigError, DataError
from bayesprune.graph import check_gates, gates_of
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.likelihoods import Likelihood, get_likelihood
from bayesprune.infer.tail import Seen, Tails
from bayesprune.layers import Draw, Gate


@dataclass(frozen=True)
class Prediction:
    """Posterior predictive summary.

    Attributes:
        mean: Class probabilities, success probabilities or means, averaged over samples; shape of the network's
            outputs.
        samples: The same for each posterior sample, shape ``(num_samples, ...)``.
    """

    mean: Tensor
    samples: Tensor


class BayesianNet(nn.Module):
    """Network, prior and likelihood, as ordinary Pyro callables ``model(x, y=None)`` and ``guide(x, y=None)``.

    The model (method page, section "Model"): π_s ~ FlatteningPrior(log γ_s), ξ_s ~ Bernoulli(π_s), weights ~ Normal(0,
    1/λ), y_i ~ likelihood(net(x_i; ξ)). The guide: ξ_s ~ Bernoulli(θ_s), π a point mass at its optimum given θ, weights
    a point mass. All gates of the network are one sample site, ``gates``. Both callables are scaled by 1/N, so that
    every loss built on them is in nats per example.

    Args:
        net: Gated network, inputs ``(B, ...)``.
        likelihood: ``"categorical"``, ``"gaussian"``, ``"bernoulli"`` or a `Likelihood`.
        num_data: N, the number of training examples.
        prior: FlatteningPrior; ``log_gamma`` a scalar, or one entry a gate in the order of `gate_names`.
        weight_precision: λ, the precision of the slab.

    Attributes:
        net: The gated network. In eval mode, without a draw, it uses the mode of its gates.
        branch_evaluations: How many branches (gates with one draw a batch) all passes with drawn gates have computed.

    Raises:
        ConfigError: for N < 1, λ < 0, or a prior that does not fit the gates.
        GateError: for a network without a gate, or with a gate in a place where switching it off is not removal.
        TraceError: for a network whose forward pass cannot be followed.
    """

    log_gamma: Tensor

    def __init__(
        self,
        net: nn.Module,
        likelihood: str | Likelihood = "categorical",
        *,
        num_data: int,
        prior: FlatteningPrior | None = None,
        weight_precision: float = 1.0,
    ):
        super().__init__()
        if num_data < 1:
            raise ConfigError(
                f"BayesianNet: num_data must be the number of training examples, at least 1, got {num_data}"
            )
        if not (math.isfinite(weight_precision) and weight_precision >= 0):
            raise ConfigError(f"BayesianNet: weight_precision must be finite and not negative, got {weight_precision}")
        check_gates(net)
        self.net = net
        self.likelihood = get_likelihood(likelihood)
        self.num_data = int(num_data)
        self.weight_precision = float(weight_precision)
        self.branch_evaluations = 0
        self._connect()
        prior = FlatteningPrior(18.0) if prior is None else prior
        try:
            log_gamma = prior.log_gamma.detach().to(torch.float32).expand(self.num_gates).clone()
        except RuntimeError:
            raise ConfigError(
                f"BayesianNet: prior.log_gamma has shape {tuple(prior.log_gamma.shape)}, but the network has "
                f"{self.num_gates} gates; give one number, or one a gate in the order of gate_names"
            ) from None
        self.register_buffer("log_gamma", log_gamma.to(self.theta.device))

    # gates ---------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Give every gate its slot, first those with one number a batch, which the host can then know as one list."""
        named = gates_of(self.net)
        branch = {name: gate.per_batch and gate.size == 1 for name, gate in named.items()}
        names = sorted(named, key=lambda name: (not branch[name], not named[name].per_batch))
        self._gates: dict[str, Gate] = {name: named[name] for name in names}
        self._module_order = list(named)
        self.draw = Draw([gate.size for gate in self._gates.values()])
        for slot, gate in enumerate(self._gates.values()):
            gate.connect(self.draw, slot)
        self.num_branches = sum(branch.values())
        self.num_shared = sum(gate.size for gate in named.values() if gate.per_batch)
        self.exchange(self.net)
        self._flatten()

    def __getstate__(self) -> dict:
        """What a copy is made of: all but the graphs of tails, which are made anew when they are asked for."""
        return {**self.__dict__, "_tails": {}}

    def _flatten(self) -> None:
        """Let the θ of all gates be views of one vector, so that a step on θ is one operation."""
        thetas = [gate.theta.detach().reshape(-1) for gate in self._gates.values()]
        flat = torch.cat(thetas) if thetas else next(self.net.parameters()).new_zeros(0)  # all branches may be gone
        for gate, part in zip(self._gates.values(), flat.split(self.draw.sizes), strict=True):
            gate.theta.data = part
        self._theta = flat.requires_grad_(True)

    def _synchronize(self) -> None:
        """Gather θ again if any gate's parameter was replaced; `theta` looks at the first gate alone, which is fast."""
        start = self._theta.data_ptr()
        for gate in self._gates.values():
            if gate.theta.data_ptr() != start:
                self._flatten()
                return
            start += gate.theta.numel() * gate.theta.element_size()

    @property
    def theta(self) -> Tensor:
        """Posterior inclusion probabilities of all gates, shape ``(S,)``, a leaf; the gates share its storage."""
        first = next(iter(self._gates.values()), None)
        if first is not None and first.theta.data_ptr() != self._theta.data_ptr():  # copied, moved or cast since
            self._flatten()
        return self._theta

    @property
    def num_gates(self) -> int:
        """S, the number of gates now in the network."""
        return self._theta.numel()

    @property
    def gate_names(self) -> list[str]:
        """Names of the gated modules, in the order of their entries in `theta` and ``log_gamma``."""
        return list(self._gates)

    def gates(self) -> list[Gate]:
        """The gates, in the order of their entries in `theta`."""
        return list(self._gates.values())

    @property
    def price(self) -> Tensor:
        """ρ_s = log γ_s / N, shape ``(S,)``: what keeping structure s costs, in nats per example."""
        return self.log_gamma / self.num_data

    def gate_probs(self) -> dict[str, Tensor]:
        """Posterior inclusion probabilities by name of the gated module, in the order of the network's modules."""
        self._synchronize()
        return {name: self._gates[name].theta.detach().clone() for name in self._module_order}

    def by_gate(self, values: Tensor) -> dict[str, Tensor]:
        """Cut a vector of shape ``(S,)``, ordered as `theta`, into one part for each gated module."""
        return dict(zip(self._gates, values.split(self.draw.sizes), strict=True))

    def weights(self) -> dict[str, nn.Parameter]:
        """All parameters of the network but its gates', by name."""
        thetas = {id(gate.theta) for gate in self._gates.values()}
        return {name: p for name, p in self.net.named_parameters() if id(p) not in thetas}

    def gated_network(self) -> nn.Module:
        """The gated network itself."""
        return self.net

    def replace(self, net: nn.Module, log_gamma: Tensor) -> None:
        """Go on with another, smaller gated network.

        Args:
            net: The network.
            log_gamma: Its prices, shape ``(S,)``, ordered as its gates will be in `gate_names`.
        """
        self.net = net
        self._connect()
        self.log_gamma = log_gamma

    def exchange(self, net: nn.Module, followed: nn.Module | None = None) -> None:
        """Compute with another form of the network, whose gates and buffers are these very ones.

        Args:
            net: The form, whose modules bear the same names.
            followed: A form whose forward pass can be followed, if that of ``net`` cannot.
        """
        self.net = net
        self._followed = () if followed is None else (followed,)  # no submodule: its weights are those of ``net``
        self._norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._tails: dict[bool, Tails] = {}

    # forward -------------------------------------------------------------------------------------------------------

    def forward(
        self, x: Tensor, xi: Tensor | None = None, *, skip: bool = False, on: Sequence[bool] | None = None
    ) -> Tensor:
        """Outputs of the network with the given gate values.

        Args:
            x: Inputs, shape ``(B, ...)``.
            xi: Gate values, shape ``(S,)``, ``(1, S)`` or ``(B, S)``, ordered as `theta`; ``None`` for the mode.
            skip: Whether branches whose gates are off are left out of the computation (they then get no derivative).
            on: With ``skip``, which of the branch gates, the first ``num_branches``, are on in ``xi``; ``None`` to
                read it off ``xi``, which waits for the device.
        """
        mode = xi is None
        if xi is None:
            self._synchronize()
            xi, skip = (self.theta.detach() > 0.5).to(self.theta.dtype), True
        known: Sequence[bool] = ()
        if skip and self.num_branches:
            known = self.branches_on(xi) if on is None else on
        if not mode:
            self.branch_evaluations += sum(known) if known else self.num_branches
        with self.draw.use(xi, known):
            return self.net(x)

    def branches_on(self, xi: Tensor) -> list[bool]:
        """Which of the branch gates are on in ``xi``; waits for the device."""
        leading = xi if xi.dim() == 1 else xi[0]
        return (leading[: self.num_branches] > 0.5).tolist()

    @property
    def tails(self) -> Tails:
        """Where passes through the network can be resumed, in its present mode."""
        if self.training not in self._tails:
            followed = [module.train(self.training) for module in self._followed]
            self._tails[self.training] = Tails(self.net, self.gates(), *followed)
        return self._tails[self.training]

    def slot_of(self, s: int) -> int:
        """The slot of the gate that entry ``s`` of `theta` belongs to."""
        if 0 <= s < self.num_branches:  # branches come first, one entry each
            return s
        for slot, size in enumerate(self.draw.sizes):
            if s < size:
                return slot
            s -= size
        raise IndexError(f"the network has {self.num_gates} gates")

    def resume(self, x: Tensor, xi: Tensor, s: int, seen: Seen, on: Sequence[bool] | None = None) -> Tensor:
        """Outputs for the gates ``xi`` with the shared gate ``s`` flipped, computed from its block on.

        Args:
            x: Inputs, shape ``(B, ...)``.
            xi: Gate values, shape ``(1, S)`` or ``(B, S)``, ordered as `theta`.
            s: An entry of `theta` that all examples share.
            seen: What the pass with ``xi`` met at the block of ``s``, see `Tails.watch`.
            on: As in `forward`, for ``xi``.
        """
        xi = xi.clone()
        xi[:, s] = (xi[:, s] < 0.5).to(xi.dtype)
        known = self.branches_on(xi) if on is None else [(not value) if i == s else value for i, value in enumerate(on)]
        slot = self.slot_of(s)
        self.branch_evaluations += sum(known[i] for i in self.tails.behind[slot] or () if i < self.num_branches)
        with self.draw.use(xi, known):
            return self.tails.resume(slot, x, seen)

    def rows(self, x: Tensor) -> int:
        """How many draws a batch takes: one an example, or one in all if every gate is shared by the batch."""
        return 1 if self.num_shared == self.num_gates else len(x)

    def sample_gates(self, x: Tensor) -> Tensor:
        """Gate values drawn from the guide for a batch, shape ``(rows, S)``."""
        return GateDraws(self.theta.detach(), self.rows(x), self.num_shared, validate_args=False).sample()

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Let passes within the context leave the running statistics of normalisations in training mode as they are."""
        # Without them, a normalisation in training mode computes the same. To write old values back instead would
        # invalidate the autograd graph of earlier passes.
        live = [(m._buffers, dict(m._buffers)) for m in self._norms if m.training]
        for buffers, _ in live:
            buffers.update(dict.fromkeys(buffers))
        try:
            yield
        finally:
            for buffers, kept in live:
                buffers.update(kept)

    # Pyro ----------------------------------------------------------------------------------------------------------

    def prior(self) -> FlatteningPrior:
        """The hyper-prior on π, batch shape ``(S,)``."""
        return FlatteningPrior(self.log_gamma)

    def slab_penalty(self) -> Tensor:
        """λ/(2N) ‖M‖², the negative log density of the weights up to a constant, nats per example."""
        total = torch.zeros((), device=self.theta.device)
        for p in self.weights().values():
            total = total + p.to(torch.promote_types(p.dtype, torch.float32)).square().sum()
        return total * (self.weight_precision / (2 * self.num_data))

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Pyro model with sample sites ``inclusion`` (π), ``gates`` (ξ) and ``obs`` (y), and the factor ``slab``.

        Args:
            x: Inputs, shape ``(B, ...)``.
            y: Targets, first dimension B; ``None`` to sample them.

        Returns:
            The network's outputs.
        """
        pyro.module("net", self.net)
        with poutine.scale(scale=1 / self.num_data):
            pi = pyro.sample("inclusion", self.prior().to_event(1))
            xi = pyro.sample("gates", GateDraws(pi, self.rows(x), self.num_shared))
            pyro.factor("slab", -self.num_data * self.slab_penalty())
            outputs = self(x, xi)
            with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=self.num_data / len(x)):
                pyro.sample(
                    "obs", self.likelihood.distribution(outputs), obs=None if y is None else self.likelihood.observed(y)
                )
        return outputs

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Pyro guide: π at its optimum given θ, ξ ~ Bernoulli(θ). `ProjectedSGD` keeps the param ``theta`` in [0, 1].

        Raises:
            ConfigError: if Pyro's parameter store holds the θ of another network.
        """
        theta = pyro.param("theta", self.theta)
        if theta is not self.theta:
            raise ConfigError(
                "guide: Pyro's parameter store holds 'theta' of another (or an earlier, larger) network; call "
                "pyro.clear_param_store() before training a new one"
            )
        with poutine.scale(scale=1 / self.num_data):
            pyro.sample("inclusion", dist.Delta(self.prior().optimal(theta)).to_event(1))
            pyro.sample("gates", GateDraws(theta, self.rows(x), self.num_shared))

    @torch.no_grad()
    def predict(self, x: Tensor, num_samples: int = 32) -> Prediction:
        """Posterior predictive in eval mode, gates drawn from the guide, one draw a sample for the whole batch.

        Args:
            x: Inputs, shape ``(B, ...)``.
            num_samples: Number of posterior samples; 0 uses the mode of the gates alone.

        Raises:
            ConfigError: for a negative ``num_samples``.
            DataError: for inputs that are not finite.
        """
        if num_samples < 0:
            raise ConfigError(f"predict: num_samples must not be negative, got {num_samples}")
        if not bool(torch.isfinite(x).all()):
            raise DataError("predict: the inputs hold NaN or infinite values; remove or impute them")
        was_training = self.training
        self.eval()
        try:
            draws: list[Tensor | None] = [GateDraws(self.theta.detach()).sample() for _ in range(num_samples)]
            draws = draws or [None]
            samples = torch.stack([self.likelihood.mean(self(x, xi, skip=xi is not None)) for xi in draws])
        finally:
            self.train(was_training)
        return Prediction(samples.mean(0), samples)
