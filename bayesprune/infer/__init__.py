"""Inference: the Bayesian network as a Pyro model and guide, its ELBO, and the estimators of the gates' gradient."""

from bayesprune.infer.differences import paired_differences, shared_differences
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.elbo import GateELBO
from bayesprune.infer.estimators import get_estimator
from bayesprune.infer.evaluation import BatchObjective
from bayesprune.infer.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Heteroscedastic,
    LearnedGaussian,
    Likelihood,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from bayesprune.infer.net import BayesianNet
from bayesprune.infer.prediction import ClassPrediction, Prediction, RealPrediction
from bayesprune.infer.random_state import RandomState
from bayesprune.infer.sampler import GateSample, GateSampler
from bayesprune.infer.table_units import standardised

__all__ = [
    "BatchObjective",
    "BayesianNet",
    "Bernoulli",
    "Categorical",
    "ClassPrediction",
    "GateDraws",
    "GateELBO",
    "GateSample",
    "GateSampler",
    "Gaussian",
    "Heteroscedastic",
    "LearnedGaussian",
    "Likelihood",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "Prediction",
    "RandomState",
    "RealPrediction",
    "StudentT",
    "get_estimator",
    "paired_differences",
    "shared_differences",
    "standardised",
]
