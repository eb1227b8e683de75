"""Estimators with the interface of scikit-learn, for tables."""

from bayesprune.sklearn.estimators import BayesPruneClassifier, BayesPruneRegressor

__all__ = ["BayesPruneClassifier", "BayesPruneRegressor"]
