"""What is written where not every character can be: where the system's encoding is ASCII, for example."""

from __future__ import annotations

import codecs
import io
import sys

NAME = "bayesprune"
"""What Python calls this way to deal with characters that cannot be encoded."""

PLAIN = {
    "θ": "theta", "ν": "nu", "γ": "gamma", "λ": "lambda", "σ": "sigma", "μ": "mu", "ξ": "xi", "ρ": "rho", "Σ": "sum",
    "→": "->", "–": "-", "—": "-", "…": "...", "≥": ">=", "≤": "<=", "×": "x", "·": "*", "½": "1/2", "²": "^2",
}  # fmt: skip


def write_what_can_be_written() -> None:
    """Let standard output and error take every text, in plainer characters where theirs do not suffice."""
    codecs.register_error(NAME, _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NAME)


def write(text: str, *, aside: bool = False) -> None:
    """Write a line at once, as it is encoded; Typer's own would take ASCII for a mistake.

    Args:
        text: The line.
        aside: Whether to standard error, because standard output is JSON, rather than to standard output.
    """
    print(text, file=sys.stderr if aside else sys.stdout, flush=True)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end
