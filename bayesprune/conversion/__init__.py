"""Any network, gated in one call, and a table of what its gates rule."""

from bayesprune.conversion.network import convert
from bayesprune.conversion.structures import structures

__all__ = ["convert", "structures"]
