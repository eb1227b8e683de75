"""Kullback-Leibler divergences that torch does not have, or not accurately enough."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import register_kl

from bayesprune.distributions.spike_and_slab import SpikeAndSlab


def bernoulli_entropy(theta: Tensor) -> Tensor:
    """H(θ) = −θ log θ − (1 − θ) log(1 − θ) in nats, 0 at 0 and 1."""
    return torch.special.entr(theta) + torch.special.entr(1 - theta)


def bernoulli_kl(theta: Tensor, pi: Tensor) -> Tensor:
    """KL(Bern(θ) ‖ Bern(π)) in nats, exact at 0 and 1 (0 · log 0 = 0) and for any positive π.

    Its slope in θ is −∞ at 0 and +∞ at 1, that of the entropy; never NaN. For the flattening prior, whose penalty has
    no such slope, use `FlatteningPrior.penalty`.

    Torch's own clamps π to the resolution of the dtype, 1e-7 in float32, while prior inclusion probabilities
    may be e^−50 and less; the KL is then −θ log π, and wrong by more than half.

    Args:
        theta: Probabilities in [0, 1].
        pi: Probabilities in [0, 1], broadcast against ``theta``.
    """
    # Where a term's weight is 0 it sees a harmless π: the slope of 0 · log π at π = 0 would be 0 / 0.
    on = torch.xlogy(theta, torch.where(theta == 0, 1.0, pi))
    off = torch.special.xlog1py(1 - theta, -torch.where(theta == 1, 0.0, pi))
    return -bernoulli_entropy(theta) - on - off


def normal_kl(mean: Tensor, log_scale: Tensor, prior_scale: Tensor | float) -> Tensor:
    """KL(Normal(μ, σ²) ‖ Normal(0, σ0²)) in nats, entry by entry.

    Args:
        mean: μ.
        log_scale: log σ, the shape of ``mean``.
        prior_scale: σ0, broadcast against it.
    """
    scale = torch.as_tensor(prior_scale, dtype=mean.dtype, device=mean.device)
    log_ratio = log_scale - scale.log()
    return torch.expm1(2 * log_ratio) / 2 - log_ratio + (mean / scale).square() / 2


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL(Normal(w, α w²) ‖ log-uniform) of each weight, nats, but for a constant, to 0.01: 0 as α → ∞.

    Molchanov, Ashukha & Vetrov 2017, equation 14.

    Args:
        log_alpha: log α.

    Examples:
        >>> bool(log_uniform_kl(torch.tensor(3.0)) < 0.05)
        True
    """
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    return k1 * (1 - torch.sigmoid(k2 + k3 * log_alpha)) + 0.5 * torch.nn.functional.softplus(-log_alpha)


@register_kl(SpikeAndSlab, SpikeAndSlab)
def kl_spike_and_slab(p: SpikeAndSlab, q: SpikeAndSlab) -> Tensor:
    """KL(p ‖ q) = KL(Bern(p.probs) ‖ Bern(q.probs)) + p.probs · KL(Normal(0, p.scale) ‖ Normal(0, q.scale)), in nats.

    The slab's term counts only while the gate is on. Infinite where q has no mass but p does.

    Args:
        p: The one law.
        q: The other.
    """
    slab = normal_kl(torch.zeros_like(p.scale), torch.log(p.scale), q.scale)
    return bernoulli_kl(p.probs, q.probs) + p.probs * slab
