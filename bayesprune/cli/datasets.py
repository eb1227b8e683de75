"""The data sets that options name."""

from __future__ import annotations

from bayesprune.data import Splits, load
from bayesprune.errors import ConfigError


def named_data(option: str, name: str, data_dir: str, limit: int | None = None) -> Splits:
    """A data set, refused by the name of the option that asks for it.

    Args:
        option: The option, such as ``--data``.
        name: Name of the data set.
        data_dir: Folder of torchvision's data sets.
        limit: Number of training examples to use; ``None`` for all.

    Raises:
        BayesPruneError: as `load`.
    """
    try:
        return load(name, data_dir=data_dir, limit=limit)
    except ConfigError as error:
        said = str(error)
        if not said.startswith("load: "):  # it begins with the name of the data set
            raise
        raise ConfigError(f"{option}: {said.removeprefix('load: ')}") from error
