"""The command line: names wired to objects."""

from bayesprune.cli.app import app, main

__all__ = ["app", "main"]
