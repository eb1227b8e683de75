"""The check of shapes, widths and depths that all networks share."""

from __future__ import annotations

from collections.abc import Sequence

from bayesprune.checked import whole
from bayesprune.errors import ConfigError


def check_sizes(
    where: str, input_shape: Sequence[int], *, widths: tuple[Sequence[int], int] = ((), 0), **sizes: int
) -> None:
    """Make sure that all of these are whole numbers, at least 1.

    Args:
        where: The network, for messages.
        input_shape: Shape of one example.
        widths: Widths of layers, and how many there must be.
        **sizes: Other numbers by name.

    Raises:
        ConfigError: if one is not, or there are more or fewer widths.
    """
    given, count = widths
    for name, entries in (("input_shape", input_shape), ("widths", given)):
        if isinstance(entries, str) or not isinstance(entries, Sequence):
            raise ConfigError(f"{where}: {name} must be a tuple of whole numbers, got {entries!r}")
        for entry in entries:
            whole(f"{where}: each entry of {name}", entry)
    if len(given) != count:
        raise ConfigError(f"{where}: widths must be {count} whole numbers, got {given!r}")
    for name, size in sizes.items():
        whole(f"{where}: {name}", size)
