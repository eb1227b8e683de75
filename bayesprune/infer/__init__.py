"""Inference: the Bayesian network as a Pyro model and guide, its ELBO, and the estimators of the gates' gradient."""

from bayesprune.infer.differences import paired_differences, shared_differences
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.elbo import GateELBO
from bayesprune.infer.estimators import ESTIMATORS, get_estimator
from bayesprune.infer.evaluation import BatchObjective
from bayesprune.infer.likelihoods import LIKELIHOODS, Bernoulli, Categorical, Gaussian, Likelihood
from bayesprune.infer.net import BayesianNet
from bayesprune.infer.noise import LearnedGaussian
from bayesprune.infer.prediction import ClassPrediction, Prediction, RealPrediction, summarize
from bayesprune.infer.random_state import RandomState
from bayesprune.infer.sampler import GateSample, GateSampler
from bayesprune.infer.weighted import Weighted

__all__ = [
    "ESTIMATORS",
    "LIKELIHOODS",
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
    "LearnedGaussian",
    "Likelihood",
    "Prediction",
    "RandomState",
    "RealPrediction",
    "Weighted",
    "get_estimator",
    "paired_differences",
    "shared_differences",
    "summarize",
]
