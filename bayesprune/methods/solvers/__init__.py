"""Solvers of the problems that methods pose layer by layer: functions of matrices, in float64."""
