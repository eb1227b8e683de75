"""What the image benchmark is made of: a loop that resumes exactly, a peer of the asked size, ratios that are right."""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bayesprune as bp
from bayesprune.data.spans import Span
from bayesprune.infer.plain import PlainNet
from bayesprune.methods.none import Plain
from bayesprune.methods.protocol import Batch
from bayesprune.optim.rates import learning_rate
from bayesprune.training.trainer import Trainer

FOLDER = Path(__file__).parent.parent / "examples" / "benchmarks"
MODULES = ("comparison", "peer", "pipelines", "recipe", "report", "selection", "step", "timing")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's modules, which import each other by name as a script's neighbours do."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture(scope="module")
def splits() -> bp.data.Splits:
    return bp.data.load("digits", limit=96)


@pytest.fixture
def recipe(bench: Any) -> Any:
    return bench.recipe.Recipe(
        net="resnet8",
        width=4,
        units=False,
        epochs=3,
        batch_size=32,
        lr=0.05,
        weight_decay=1e-3,
        label_smoothing=0.1,
        every=2,
        reference="resnet8",
        budget="macs=0.4",
        price=None,
        device="cpu",
        precision="float32",
        compile=False,
        blocks=1,
    )


def train(bench: Any, recipe: Any, splits: bp.data.Splits, folder: Path, minutes: float = math.inf) -> Any:
    """The plain network of seed 0 after a run, and what the run returned."""
    torch.manual_seed(0)
    net = recipe.plain(splits)
    folder.mkdir(exist_ok=True)
    deadline = bench.recipe.Deadline(minutes, time.perf_counter())
    run = bench.pipelines.Run(recipe, splits, 0, folder, deadline)
    progress = bench.pipelines.Progress(folder, deadline)
    return net, bench.pipelines.train_plainly(run, net, folder, recipe.epochs, recipe.lr, progress)


# recipe -------------------------------------------------------------------------------------------------------------


def test_the_plain_network_begins_as_the_gated_one(recipe: Any, splits: bp.data.Splits) -> None:
    torch.manual_seed(3)
    gated = recipe.gated(splits)
    torch.manual_seed(3)
    plain = recipe.plain(splits)
    assert bp.cost(plain).params == bp.cost(gated).params
    assert not any("gate" in name for name, _ in plain.named_modules())
    x = splits.test[:16][0]
    torch.testing.assert_close(plain(x), gated(x))  # in training mode, all branches on


def test_the_optimiser_is_sgd_with_nesterov_momentum(bench: Any) -> None:
    start, gradients = torch.tensor([1.0, -2.0]), [torch.tensor([0.3, 0.1]), torch.tensor([-0.2, 0.4])]
    weight = torch.nn.Parameter(start.clone())
    unused = torch.nn.Parameter(start.clone())
    optimizer = bench.recipe.nesterov(iter([unused, weight]), lr=0.1, weight_decay=0.01)
    expected, momentum = start.clone(), torch.zeros(2)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        slope = gradient + 0.01 * expected
        momentum = 0.9 * momentum + slope
        expected = expected - 0.1 * (slope + 0.9 * momentum)
    torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(unused.detach(), start)  # a branch that was off: neither momentum nor decay


def test_the_slab_gives_the_weight_decay(recipe: Any, splits: bp.data.Splits) -> None:
    bnn = recipe.bayesian(splits)
    assert bnn.weight_precision / bnn.num_data == pytest.approx(recipe.weight_decay)
    assert bnn.num_data == 96 and bnn.likelihood.label_smoothing == recipe.label_smoothing


def test_the_deadline_counts_what_comes_next(bench: Any) -> None:
    now = time.perf_counter()
    bench.recipe.Deadline(math.inf, now).epoch_done(1e9)
    bench.recipe.Deadline(1.0, now - 30).epoch_done(20.0)
    with pytest.raises(bench.recipe.OutOfTime):
        bench.recipe.Deadline(1.0, now - 30).epoch_done(31.0)


def test_an_epoch_is_done_however_late_it_is(bench: Any) -> None:
    deadline = bench.recipe.Deadline(0.0, time.perf_counter() - 1)
    deadline.check()
    with pytest.raises(bench.recipe.OutOfTime):
        deadline.epoch_done(0.0)
    with pytest.raises(bench.recipe.OutOfTime):
        deadline.check()


def test_a_network_that_does_not_exist_is_refused(recipe: Any, splits: bp.data.Splits) -> None:
    with pytest.raises(SystemExit, match="resnext7"):
        replace(recipe, net="resnext7").gated(splits)


# plain --------------------------------------------------------------------------------------------------------------


def test_a_broken_run_ends_with_the_numbers_of_an_unbroken_one(
    bench: Any, recipe: Any, splits: bp.data.Splits, tmp_path: Path
) -> None:
    whole, history = train(bench, recipe, splits, tmp_path / "whole")
    with pytest.raises(bench.recipe.OutOfTime):
        train(bench, recipe, splits, tmp_path / "broken", minutes=0.0)
    resumed, after = train(bench, recipe, splits, tmp_path / "broken")
    assert len(history.rows) == len(after.rows) == recipe.epochs
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_the_plain_loss_is_that_of_the_gated_network(bench: Any, recipe: Any, splits: bp.data.Splits) -> None:
    """With all gates on, the first step of both pipelines has the same loss and leaves the same weights."""
    x, y = splits.train[:32]
    torch.manual_seed(1)
    plain = recipe.plain(splits)
    torch.manual_seed(1)
    bnn = recipe.bayesian(splits)
    with torch.no_grad():
        bnn.theta.fill_(1.0)
    net = PlainNet(plain, recipe.likelihood(), len(splits.train))
    settings, loader = recipe.plain_settings(recipe.lr), bench.step.Repeat(x, y, 10)
    trainer = Trainer(net, loader, 1, False, settings, recipe.engine(), Plain())
    trainer.net.train()
    loss = trainer.train_step(Batch(x, y, Span(32, 0, 32)))
    decay = bnn.weight_precision / bnn.num_data
    optimizer = bench.recipe.nesterov(
        bnn.weights().values(), lr=recipe.lr * learning_rate(0, 10, 1), weight_decay=decay
    )
    objective = bp.infer.BatchObjective(bnn, x, y)
    gated_loss = objective(bnn.theta.detach()[None], skip=True).mean()
    gated_loss.backward()
    optimizer.step()
    torch.testing.assert_close(loss, gated_loss.detach())
    weights = dict(plain.named_parameters())
    assert weights.keys() == bnn.weights().keys()
    for name, weight in bnn.weights().items():
        torch.testing.assert_close(weights[name], weight)


# peer ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_peer_is_as_small_as_asked_and_no_smaller(
    bench: Any, recipe: Any, splits: bp.data.Splits, share: float
) -> None:
    pytest.importorskip("torch_pruning", reason="needs the extra 'bench'")
    net = replace(recipe, width=8).plain(splits)
    example = bench.recipe.example(splits)
    whole = bp.cost(net, example)
    smaller = bench.peer.pruned(net, example, round(share * whole.macs))
    macs = bp.cost(smaller, example).macs
    # At 8 to 32 channels the dearest group, one entry of the last stage's stream, is 5 % of the network.
    assert (share - 0.06) * whole.macs < macs <= share * whole.macs
    assert bp.cost(net, example) == whole
    assert smaller(splits.test[:4][0]).shape == (4, 10)


def test_a_peer_that_cannot_be_so_small_says_so(
    bench: Any, recipe: Any, splits: bp.data.Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_pruning", reason="needs the extra 'bench'")
    monkeypatch.setattr(bench.peer, "STEPS", 20)
    with pytest.raises(bench.peer.TooSmall, match="down to 1 multiply-adds"):
        bench.peer.pruned(recipe.plain(splits), bench.recipe.example(splits), 1)


# comparison ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(bench: Any) -> dict[str, Any]:
    pair = bench.timing.Pair
    dense = bench.pipelines.Row(
        "dense", "resnet8", 0, 0.90, 1000, 500, 9, (3, 3), 10.0, [4.0, 2.0, 2.5, 1.5], 300, {1: pair(2.0, 2.0, 1.0)}
    )
    small = {"macs": 400, "params": 250}
    gated = replace(dense, pipeline="gated", accuracy=0.89, layers=5, branches=(1, 3), seconds=8.0, **small)
    gated = replace(gated, epochs=[5.0, 3.0, 1.0, 1.0], peak=330, latency={1: pair(2.0, 1.2, 0.6)}, converged=1.0)
    peer = replace(dense, pipeline="peer", accuracy=0.88, seconds=16.0, peak=None, **small)
    return {"dense": dense, "gated": gated, "peer": peer}


def test_ratios(bench: Any, rows: dict[str, Any]) -> None:
    found = bench.comparison.against(rows["gated"], rows["dense"])
    assert found.pop("accuracy points") == pytest.approx(-1.0)
    expected = {
        "macs": 0.4,
        "params": 0.5,
        "layers": 5 / 9,
        "first_seconds": 0.5,
        "last_seconds": 0.5,
        "seconds": 0.8,
        "peak": 1.1,
    }
    assert found == pytest.approx(expected)
    assert bench.comparison.against(rows["gated"], rows["peer"])["peak"] is None
    assert bench.comparison.depth_into_time(rows["gated"], rows["dense"]) == {1: pytest.approx(1.5)}


def test_the_very_first_epoch_is_not_taken_for_one_at_the_start(bench: Any, rows: dict[str, Any]) -> None:
    assert rows["dense"].first_seconds == 2.0 and rows["gated"].first_seconds == 1.0  # medians of epochs 2 to 4
    assert replace(rows["dense"], epochs=[7.0]).first_seconds == 7.0
    assert rows["gated"].last_seconds == 1.0


def test_a_row_survives_its_file(bench: Any, rows: dict[str, Any], tmp_path: Path) -> None:
    bench.report.write_json(tmp_path / "row.json", asdict(rows["gated"]))
    assert bench.pipelines.Row.read(tmp_path / "row.json") == rows["gated"]


def test_tables_have_one_line_a_row(bench: Any, rows: dict[str, Any]) -> None:
    text = bench.comparison.pipelines_table(list(rows.values()))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])} and len(lines) == 5
    gated = dict(zip(lines[0], lines[3], strict=True))
    assert gated["multiply-adds"] == "400 (40.0 %)" and gated["× dense"] == "0.80" and gated["× peer"] == "0.50"
    assert gated["branches"] == "1 of 3" and gated["latency of batch 1 (over multiply-adds)"] == "0.60 (1.50)"

    deeper = replace(rows["gated"], net="resnet14", branches=(3, 6), seed=1)
    lines = bench.comparison.depths_table([rows["gated"], deeper, replace(deeper, branches=(1, 6))]).splitlines()
    assert len(lines) == 2 + 2 + 3 and "| 2.0 |" in lines[-1]


def test_times_are_taken_in_turn(bench: Any) -> None:
    calls: list[str] = []
    pair = bench.timing.in_turn(lambda: calls.append("a"), lambda: (calls.append("b"), time.sleep(2e-3)), 2, calls=3)
    assert calls == (["a"] * 3 + ["b"] * 3) * 3  # one block to warm up
    assert pair.ms >= 2 and pair.ratio > 1


def test_the_step_benchmark_leaves_the_gates_where_they_are(bench: Any) -> None:
    net = bp.networks.resmlp(depth=2, width=8)
    plain, gated, ratio = bench.step.compare(net, "point", batch=8, blocks=1, steps=4, every=2)
    assert plain > 0 and ratio == pytest.approx(gated / plain)  # of a single block
    # Four moves, each of at most ten times 2 * 5 / (0.55 * 0.35e9): steps on a gradient ten times its noise or price.
    assert all(abs(float(gate.theta.detach()) - 0.9) < 1e-5 for gate in bp.layers.gates_of(net).values())


def test_selection_tables_hold_every_method(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(problem: Any, setting: Any) -> torch.Tensor:
        return bp.selection.enumerate_models(problem.x, problem.y, **vars(setting)).inclusion

    def empty(problem: Any, setting: Any) -> torch.Tensor:
        return torch.zeros(len(problem.support))

    methods = {"mean field": bench.selection.METHODS["mean field"], "exact": exact}
    rows = [line.strip("| ").split(" | ") for line in bench.selection.deviation_table(methods, range(3)).splitlines()]
    assert rows[0] == ["inputs", "mean field: mean", "mean field: largest", "exact: mean", "exact: largest"]
    assert rows[2] == ["orthogonal", *["0.000"] * 4]  # where mean field is exact
    assert [row[3:] for row in rows[3:]] == [["0.000"] * 2] * 4
    means = [float(row[1]) for row in rows[2:]]
    assert means == sorted(means) and means[-1] > 0.1

    monkeypatch.setattr(bench.selection, "WIDE", ((120, 0.0),))
    oracle = {"truth": lambda problem, setting: problem.support.double(), "empty": empty}
    assert bench.selection.recovery_table(oracle, range(2)).splitlines()[2:] == [
        "| 120 | 0.0 | 1.00 | 0.00 | 0.00 | 0.00 |"
    ]
    monkeypatch.setattr(bench.selection, "FRIEDMAN", (6,))
    assert bench.selection.friedman_table(oracle, range(2)).splitlines()[2:] == ["| 6 | 1.00 | 0.00 | 0.00 | 0.00 |"]


def test_orthogonal_inputs_are_standardised(bench: Any) -> None:
    problem = bench.selection.orthogonal(60, 5, 2, effect=0.3, seed=0)
    torch.testing.assert_close(problem.x.T @ problem.x, 60 * torch.eye(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(problem.x.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    noise = problem.y - problem.x @ problem.coefficients
    assert 0.7 < noise.std() < 1.3 and int(problem.support.sum()) == 2
