"""The versions of what a run depends on, read without importing any of it."""

import platform
from importlib.metadata import version


def version_line() -> str:
    """What ``bayesprune --version`` prints, on one line."""
    installed = {"bayesprune": "bayesprune", "torch": "torch", "pyro": "pyro-ppl"}
    numbers = {name: version(package) for name, package in installed.items()}
    return "bayesprune {bayesprune} (torch {torch}, pyro {pyro}, python {python})".format(
        **numbers, python=platform.python_version()
    )
