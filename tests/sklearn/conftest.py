"""Estimators that several files of tests ask, trained once."""

import pytest

from bayesprune.sklearn import BayesPruneClassifier, BayesPruneRegressor
from tests.sklearn.problems import TABLE, classifier, regressor, three_classes


@pytest.fixture(scope="session")
def fitted() -> BayesPruneRegressor:
    return regressor(epochs=100).fit(*TABLE)


@pytest.fixture(scope="session")
def sorter() -> BayesPruneClassifier:
    return classifier().fit(*three_classes(300))
