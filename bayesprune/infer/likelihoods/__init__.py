"""What a network's outputs say about the targets: one file a likelihood, found by being here."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from bayesprune.checked import meant
from bayesprune.errors import ConfigError
from bayesprune.infer.likelihoods.base import Likelihood
from bayesprune.infer.likelihoods.bernoulli import Bernoulli
from bayesprune.infer.likelihoods.categorical import Categorical
from bayesprune.infer.likelihoods.gaussian import Gaussian
from bayesprune.infer.likelihoods.heteroscedastic import Heteroscedastic
from bayesprune.infer.likelihoods.learned_gaussian import LearnedGaussian
from bayesprune.infer.likelihoods.negative_binomial import NegativeBinomial
from bayesprune.infer.likelihoods.ordinal import Ordinal
from bayesprune.infer.likelihoods.poisson import Poisson
from bayesprune.infer.likelihoods.student_t import StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Heteroscedastic",
    "LearnedGaussian",
    "Likelihood",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "get_likelihood",
]


def _named() -> dict[str, type[Likelihood]]:
    """The likelihoods that modules of this package define, by name."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    defined = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    own = [value for value in defined if issubclass(value, Likelihood) and vars(value).get("name")]
    return {value.name: value for value in own if value.name}


LIKELIHOODS = _named()
"""By the name that a `BayesianNet` is asked for them by."""


def get_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """The likelihood of that name, or the object itself.

    Args:
        likelihood: Its name, or one.

    Raises:
        ConfigError: for an unknown name, or a likelihood whose ``__init__`` leaves out that of `Likelihood`.
    """
    if isinstance(likelihood, Likelihood):
        if "_modules" not in vars(likelihood):
            raise ConfigError(
                f"likelihood {type(likelihood).__name__}: its __init__ must begin with super().__init__(), because a "
                "Likelihood is a torch.nn.Module"
            )
        return likelihood
    if likelihood not in LIKELIHOODS:
        raise ConfigError(
            f"unknown likelihood {likelihood!r}{meant(likelihood, LIKELIHOODS)}; known are "
            f"{', '.join(sorted(LIKELIHOODS))}, or pass a Likelihood object"
        )
    return LIKELIHOODS[likelihood]()
