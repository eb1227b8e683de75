"""Distributions of gates and gated weights, and their divergences."""

from bayesprune.distributions.flattening import FlatteningPrior
from bayesprune.distributions.gate_prior import GatePrior
from bayesprune.distributions.inclusion import FixedInclusion, layer_adaptive_log_gamma
from bayesprune.distributions.kl import bernoulli_kl, normal_kl
from bayesprune.distributions.spike_and_slab import SpikeAndSlab

__all__ = [
    "FixedInclusion",
    "FlatteningPrior",
    "GatePrior",
    "SpikeAndSlab",
    "bernoulli_kl",
    "layer_adaptive_log_gamma",
    "normal_kl",
]
