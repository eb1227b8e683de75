"""Stochastic variational inference with gates: the method that this project exists for."""
