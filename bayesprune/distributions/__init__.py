"""Distributions of gates and gated weights, and their divergences."""

from bayesprune.distributions.flattening import FlatteningPrior
from bayesprune.distributions.kl import bernoulli_kl
from bayesprune.distributions.spike_and_slab import SpikeAndSlab

__all__ = ["FlatteningPrior", "SpikeAndSlab", "bernoulli_kl"]
