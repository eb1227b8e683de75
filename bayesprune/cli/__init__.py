"""The command line: names wired to objects."""

from bayesprune.cli.commands import app, main

__all__ = ["app", "main"]
