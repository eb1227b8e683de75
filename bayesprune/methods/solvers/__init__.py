"""Solvers of the problems that methods pose layer by layer, in float64, and layers that hold what they find."""
