"""The command line: names wired to objects."""

from bayesprune.cli.entry import main

__all__ = ["main"]
