"""`compare`: methods of pruning on the same networks, data, batches, epochs and number of trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.comparison.material import Material
from bayesprune.comparison.plan import Plan
from bayesprune.comparison.result import ComparisonResult
from bayesprune.comparison.rows import Row
from bayesprune.comparison.runs import TEST
from bayesprune.comparison.stages import Workshop
from bayesprune.data import Splits

PAGE = "comparison.html"


@checked_arguments
def compare(
    settings: str | Path | Mapping[str, Any] | Plan = "quick",
    *,
    out: str | Path,
    workers: int = 1,
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    data_dir: str | Path = "data",
    networks: Mapping[str, Callable[..., nn.Module]] | None = None,
    data: Mapping[str, Splits] | None = None,
    on_row: Callable[[Row, int, int], None] | None = None,
) -> ComparisonResult:
    """Compare methods of pruning, by settings that are written down beforehand.

    First each method has the same number of trials of its options on held-out training data. What they speak for is
    frozen (``frozen.json``), and then each method is trained for all goals and seeds, and scored once on the test data.
    A run that comes to nothing leaves a row that says why.

    Args:
        settings: Path of a TOML file, ``"quick"`` or ``"full"`` for those of the package, a mapping of what such a file
            holds, or a `Plan`.
        out: Folder of all files. If it holds the same comparison, that goes on where it was broken off.
        workers: How many processes train at a time. With more than one, ``networks`` must be functions that can be
            imported, and a script must call `compare` under ``if __name__ == "__main__"``.
        methods: The methods to compare, of those that the settings name; ``None`` for all.
        tasks: The tasks to compare them on, ``NET-DATA``, likewise.
        data_dir: Folder of torchvision's data sets.
        networks: By name, functions of the shape of one example and the number of classes that build gated networks.
        data: By name, data sets of one's own.
        on_row: Called with every finished row, how many there are of its stage, and how many there are to be.

    Returns:
        The rows of the test stage; ``rows.csv``, ``tuning.csv`` and ``comparison.html`` in ``out`` hold them too.

    Raises:
        ConfigError: for settings that cannot work, and if ``out`` is that of another comparison or process.
        CheckpointError: if a file in ``out`` was changed or is damaged.
        FileError: if a file cannot be read or written.
    """
    plan = settings if isinstance(settings, Plan) else Plan.read(settings)
    plan = plan.only(methods=methods, tasks=tasks)
    plan.check()
    material = Material(str(data_dir), dict(networks or {}), dict(data or {}))
    workers = whole("compare: workers", workers)
    shop = Workshop(plan, material, Path(out), workers, on_row or _nothing)
    shop.compare()
    result = replace(ComparisonResult.read(shop.folder), rows=shop.rows(TEST))
    result.html(shop.folder / PAGE)
    return result


def _nothing(row: Row, done: int, count: int) -> None:
    """Nobody is told."""
