"""Sparse variational dropout: weights whose noise drowns them go (Molchanov, Ashukha & Vetrov 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.distributions.kl import log_uniform_kl
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run, Site
from bayesprune.methods.protocol.ranking import smallest_overall
from bayesprune.methods.protocol.signals import input_of

BOUND = 8.0
"""log α counts within ± so much."""
TINY = 1e-8


class SparseVariationalDropout(Method):
    """Every weight of linear and convolution layers has Normal noise of its own; those of large α = σ² / w² go.

    While training the outputs of layers are drawn, given their inputs, with the mean of the weights and the variance
    that the noise makes of them, each example's for itself. The loss has Σ KL(q(w) ‖ log-uniform) / N more, which
    rises from 0 over ``warmup``. After ``until`` weights of large log α are masked, and what is left trains on, without
    noise.

    Args:
        sparsity: Which share of the weights goes, those of the largest α, but the best of each layer; ``None`` for
            those of log α > threshold.
        threshold: Of log α.
        until: After which share of the run weights go.
        warmup: Over which share of the time until then the divergence rises.
        start: log σ² as the run begins.
        rate: How many times as fast as weights log σ² moves.

    Raises:
        ConfigError: for shares or rates out of their ranges, and before training for a network without linear and
            convolution layers.

    Examples:
        >>> SparseVariationalDropout(sparsity=0.9).threshold
        3.0

    Sources:
        Molchanov, Ashukha & Vetrov 2017, "Variational Dropout Sparsifies Deep Neural Networks", equations 11 to 14:
        additive noise, the approximate divergence, local reparameterisation (Kingma, Salimans & Welling 2015) and the
        threshold of 3; the interval of log α and ``start`` are those of its code. Ours: the share as a target, the rate
        (1 there, in longer runs), and that what is left trains on.
    """

    name: ClassVar[str] = "sparse_vd"

    @checked_arguments
    def __init__(
        self,
        sparsity: float | None = None,
        threshold: float = 3.0,
        until: float = 0.5,
        warmup: float = 0.5,
        start: float = -10.0,
        rate: float = 10.0,
    ):
        super().__init__()
        kind = self.name
        self.sparsity = None if sparsity is None else real(f"{kind}: sparsity", sparsity, 0, 1)
        self.threshold = real(f"{kind}: threshold", threshold, -BOUND, BOUND)
        self.until = real(f"{kind}: until", until, 0, 1)
        self.warmup = real(f"{kind}: warmup", warmup, 0, 1, "(]")
        self.start = real(f"{kind}: start", start)
        self.rate = real(f"{kind}: rate", rate, 0)
        self._sites: list[Site] = []

    def setup(self, run: Run) -> Needs:
        """Train with noise, then without.

        Raises:
            ConfigError: if no layer can have noise.
        """
        weights, net = [site for site in run.sites if site.kind == "weight"], run.net.net
        self._sites = [site for site in weights if all(_linear_map(layer) for layer in site.holders(net))]
        if not self._sites:
            raise ConfigError(
                "sparse_vd: the network has no linear or convolution layer, which alone get noise; take "
                "'magnitude' for others"
            )
        self.slow = nn.ParameterList([torch.full_like(site.weight, self.start / self.rate) for site in self._sites])
        return Needs((Phase("train", share=self.until), Phase("tune", share=1 - self.until)))

    def log_alpha(self, place: int) -> Tensor:
        """The logarithm of α of the weights of a layer, within its bounds."""
        size = (self._sites[place].weight.square() + TINY).log()
        return (self.rate * self.slow[place] - size).clamp(-BOUND, BOUND)

    @contextmanager
    def epoch(self, run: Run) -> Iterator[None]:
        """Let layers draw their outputs."""
        with ExitStack() as held:
            if run.phase.name == "train":
                for place, site in enumerate(self._sites):
                    for layer in site.holders(run.net.net):
                        hook = layer.register_forward_hook(self._noise(place), with_kwargs=True)
                        held.callback(hook.remove)
            yield

    def _noise(self, place: int) -> Callable[..., Tensor]:
        """What adds to the outputs of a layer the noise of its weights."""

        def add(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            x = input_of(layer, args, kwargs)
            variance = _linear_map(layer)(x.square(), (self.rate * self.slow[place]).exp())  # type: ignore[misc]
            noise = (variance.relu() + TINY).sqrt() * torch.randn_like(variance)
            gate = getattr(layer, "gate", None)
            return output + (noise if gate is None else gate(noise, layer.gate_dim)).to(output.dtype)

        return add

    def loss(self, run: Run) -> Tensor | float:
        """Σ KL / N, as far as it has risen."""
        if run.phase.name != "train" or not self._sites:
            return 0.0
        risen = min(1.0, run.progress / (self.until * self.warmup))
        sums = torch.stack([log_uniform_kl(self.log_alpha(place)).sum() for place in range(len(self._sites))])
        return risen / run.net.num_data * sums.sum()

    @torch.no_grad()
    def decide(self, run: Run) -> Decision:
        """Mask weights that are noise, as the first phase ends; from here on there is none."""
        if run.phase.name != "train":
            return Decision()
        found = {site.name: -self.log_alpha(place) for place, site in enumerate(self._sites)}
        self._sites = []
        if self.sparsity is not None:
            return Decision(masks={name: ~small for name, small in smallest_overall(found, self.sparsity).items()})
        return Decision(masks={n: (v >= -self.threshold) | (v == v.max()) for n, v in found.items()})


def _linear_map(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What a layer does to an input with a weight, without bias or gate; ``None`` for other layers."""
    if isinstance(layer, nn.Linear):
        return F.linear
    if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd):
        return lambda x, weight: layer._conv_forward(x, weight, None)  # type: ignore[operator]
    return None
