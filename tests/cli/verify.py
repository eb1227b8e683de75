"""What every command must do: end as it should, and when it refuses, say so in one line and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from bayesprune.cli import app

TINY = ("--epochs", "6", "--limit", "600", "--batch-size", "16", "--lr", "0.02", "--log-gamma", "0.2")
"""Options of a run of a second in which gates are removed from the second epoch on."""


def run(*args: str | Path) -> Result:
    """The result of ``bayesprune ARGS``, in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bayesprune")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def verify_done(*args: str | Path) -> str:
    """The command ends well, says nothing on stderr, and prints what this returns."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def verify_refused(*args: str | Path, says: tuple[str, ...], code: int = 2) -> None:
    """The command ends with ``code`` and one line of error on stderr that holds all of ``says``."""
    result = run(*args)
    assert result.exit_code == code, result.output
    *_, line = result.stderr.splitlines()
    assert result.stderr.count("error: ") == 1
    assert line.startswith("error: ")
    for part in says:
        assert part in line
    assert "Traceback" not in result.output


def listing(folder: Path) -> list[str]:
    """Everything below ``folder``."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
