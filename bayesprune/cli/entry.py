"""Where the command line starts: what can be answered, and stopped, before anything slow is imported."""

import os
import sys

from bayesprune.cli.encoding import write_what_can_be_written
from bayesprune.cli.interrupts import interrupts_end_the_process
from bayesprune.cli.version import version_line


def main() -> None:
    """Entry point of the command ``bayesprune``."""
    write_what_can_be_written()
    if sys.argv[1:] == ["--version"]:
        print(version_line())
        return
    with interrupts_end_the_process():
        if "_BAYESPRUNE_COMPLETE" in os.environ:  # Tab was pressed in a shell
            from bayesprune.cli.completing import completing_app

            app = completing_app()
        else:
            from bayesprune.cli.commands import app  # slow to import: torch

        app(prog_name="bayesprune")
