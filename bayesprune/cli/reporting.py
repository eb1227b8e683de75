"""What a page is told of the folders of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.cli.config import RunConfig
from bayesprune.cli.finished import input_gate
from bayesprune.cli.folder import CHECKPOINT, MODEL, RESULT
from bayesprune.cli.own import is_own
from bayesprune.cli.posterior import new_net
from bayesprune.cli.record import CONFIG, check_run, read_config, read_json
from bayesprune.errors import BayesPruneError, ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.layers import gates_of
from bayesprune.methods.svi.budget import Budget
from bayesprune.pruning import ExpectedCost, cost, load, read_run
from bayesprune.pruning.meter import compare_latencies
from bayesprune.reports import RunReport
from bayesprune.schema import items, number, optional, record, text, truth, whole
from bayesprune.training.history import History
from bayesprune.training.state import Checkpoint

PAGE = "report.html"
BATCH, WORK = 64, 10**9
"""Examples of a batch whose latency is measured, and multiply-adds that it may have at the start."""
_bin = record({"count": whole(1), "confidence": number(0, 1), "accuracy": number(0, 1)})
_share, _count = number(0, 1), whole()
RESULTS = record(
    {
        **{"accuracy": _share, "nll": number(0), "brier": number(0, 2), "ece": _share},
        **{"params": _count, "macs": _count, "dense_params": whole(1), "dense_macs": whole(1), "gates_left": _count},
        "budget_met": optional(truth),
    },
    {
        **{"run": optional(text), "reliability": items(_bin)},
        **{"posterior_accuracy": _share, "posterior_nll": number(0), "posterior_ece": _share},
    },
)
"""What of ``result.json`` a page shows."""


def read_runs(folders: Sequence[Path], run_code: bool = False) -> list[RunReport]:
    """What there is of the runs in these folders, by the names of the folders, or their paths where two are alike.

    Args:
        folders: The folders.
        run_code: Whether the code of networks of one's own may run; without it nothing is told of their costs alone and
            of their latency.

    Raises:
        BayesPruneError: for one that is not that of a run, or has not finished an epoch, and for damaged files.
    """
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [_read(folder, name, run_code) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str, run_code: bool) -> RunReport:
    path = folder / CHECKPOINT
    if not path.is_file():
        read_config(folder)  # refuses what is no run
        raise ConfigError(
            f"{folder}: the run has not finished an epoch, so there is nothing to tell of it; go on with "
            f"'bayesprune train --resume {folder}'"
        )
    state = Checkpoint.read(path)
    history = History.from_state(state.history)
    thetas = {name: path[-1] for name, path in history.thetas.items()}
    told: dict[str, Any] = {"name": name, "history": history, "epochs": state.epochs, "num_data": state.num_data}
    if not (folder / CONFIG).is_file():  # of `fit`, which knows nothing of data sets and networks by name
        first = next(iter(thetas), None)
        alone = first is not None and next(iter(state.network), None) == f"{first}.theta"
        inputs = (first, tuple(thetas[first].shape)) if alone and first is not None else None
        return RunReport(**told, settings=_budget(state.settings), inputs=inputs)
    config, shape, run = read_config(folder)
    check_run(path, state.run, run)
    result = _result(folder, run)
    net = None if is_own(config.net) and not run_code else _at_start(config, shape, state)
    example = torch.zeros(1, *shape)
    small = None if result is None else _network(folder, run)
    return RunReport(
        **told,
        settings=asdict(config),
        result=result,
        folder=str(folder),
        inputs=input_gate(shape, thetas, state.network),
        saved={} if net is None else saved_alone(net.net, example),
        latency=None if net is None or small is None else _latency(net.net, small, example),
        filters=None if small is None else first_filters(small),
    )


def record_of(run: RunReport) -> dict[str, Any]:
    """What ``report --json`` prints of a run: the figures and the table of its page; null for what is not known.

    Args:
        run: The run.
    """
    (_, gates, gates_left, _), (_, params, params_left, _), (_, macs, macs_left, _) = run.figures
    rows = [asdict(layer.summary()) for layer in run.layers]
    record = {
        "name": run.name,
        "epoch": len(run.history.rows),
        "epochs": run.epochs,
        "accuracy": run.accuracy,
        **{"gates": gates, "gates_left": gates_left, "dense_params": params, "params": params_left},
        **{"dense_macs": macs, "macs": macs_left},
        "budget": run.settings.get("budget"),
        "budget_met": run.budget_met,
        "forced": run.forced,
        "latency": run.latency,
    }
    return {name: _finite(value) for name, value in record.items()} | {
        "layers": [{name: _finite(value) for name, value in row.items()} for row in rows]
    }


def _finite(value: Any) -> Any:
    """A value of a record; ``None`` for a number that JSON has not."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _budget(settings: Sequence[Any]) -> dict[str, str]:
    """The budget of a run of `fit` as settings have it by name; without one, nothing.

    Args:
        settings: Those of its checkpoint, pairs of a name and a plain value.
    """
    found = next((value for name, value in settings if name == "budget"), None)
    return {} if found is None else {"budget": str(Budget(**found))}


def _result(folder: Path, run: str | None) -> dict[str, Any] | None:
    """The contents of ``result.json``; ``None`` if the run has not finished."""
    path = folder / RESULT
    if not path.is_file():
        return None
    found = read_json(path, RESULTS)
    check_run(path, found.get("run"), run)
    return found


def _network(folder: Path, run: str | None) -> nn.Module | None:
    path = folder / MODEL
    if not path.is_file():
        return None
    check_run(path, read_run(path), run)
    return load(path)


def _at_start(config: RunConfig, shape: tuple[int, ...], state: Checkpoint) -> BayesianNet | None:
    """The network as the run began, without its weights; ``None`` where it cannot be had without the data.

    The last of its parameters is taken to have one row a class, and what is built by that is held to the shapes that
    the checkpoint has.
    """
    outputs = next(reversed(state.network.values()), [0])[0]
    try:
        net = new_net(config, shape, outputs, state.num_data)
    except BayesPruneError:
        return None
    return net if {name: list(p.shape) for name, p in net.net.named_parameters()} == state.network else None


def saved_alone(net: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """Parameters and multiply-adds that go with each structure if it goes alone, by gate name, shape ``(gates, 2)``.

    Args:
        net: The gated network.
        example: One input.
    """
    expected = ExpectedCost(net, example)
    on = {name: torch.ones(gate.size, dtype=torch.float64, requires_grad=True) for name, gate in gates_of(net).items()}
    costs = expected(on)
    found = [torch.autograd.grad(costs[name], list(on.values()), retain_graph=True) for name in expected.measures]
    return {name: torch.stack(columns, 1).float() for name, columns in zip(on, zip(*found, strict=True), strict=True)}


def _latency(before: nn.Module, after: nn.Module, example: Tensor) -> tuple[float, float]:
    """Seconds that an example takes in both, in batches of `BATCH` but for large networks, measured here and now."""
    size = max(1, min(BATCH, WORK // max(1, cost(before, example).macs or 0)))
    first, last = (
        sum(each) / size for each in compare_latencies([before, after], example.expand(size, *example.shape[1:]))
    )
    return first, last


def first_filters(net: nn.Module) -> Tensor | None:
    """The filters of a first convolution that reads an image of one or three channels; ``None`` where there is none.

    Args:
        net: The network.
    """
    layer = next((module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))), None)
    if not isinstance(layer, nn.Conv2d) or layer.in_channels not in (1, 3) or min(layer.kernel_size) < 2:
        return None
    return layer.weight.detach()
