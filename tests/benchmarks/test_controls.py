"""The controls are what they are called: fresh weights, as much compute, the nearest that costs no more."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bayesprune as bp
from bayesprune.comparison.material import fresh


@pytest.fixture
def run(bench: Any, experiment: Any, splits: bp.data.Splits, tmp_path: Path) -> Any:
    deep = replace(experiment, net="resnet14", reference="resnet14", budget="macs=0.9")
    return bench.running.Run(deep, splits, 0, tmp_path, bench.experiment.Deadline(math.inf, time.perf_counter()))


def test_nothing_is_left_in_a_fresh_network_of_what_it_was(bench: Any, experiment: Any, splits: bp.data.Splits) -> None:
    built = experiment.plain(splits)
    found = []
    for before in (built, copy.deepcopy(built)):
        with torch.no_grad():
            for value in before.state_dict().values():
                value.fill_(7 + len(found))
        torch.manual_seed(5)
        found.append(fresh(before).state_dict())
    one, other = (experiment.plain(splits).state_dict() for _ in range(2))
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
        assert not torch.equal(one[name], other[name]) or torch.equal(value, one[name]), f"{name} is not drawn"


def ended_with(bench: Any, run: Any, net: Any, macs: int, charged: float) -> Any:
    """Leave behind what the gated pipeline would that ended with ``net``."""
    row = bench.running.Row("gated", "resnet14", 0, 0.5, macs, 10, 1, (1, 6), 1.0, [1.0], None, charged=charged)
    (run.folder / "gated").mkdir()
    bench.report.write_json(run.folder / "gated" / "row.json", vars(row))
    bp.save(net, run.folder / "gated" / "model.safetensors")


def test_scratch_has_the_epochs_or_the_compute_of_the_gated_run(bench: Any, run: Any) -> None:
    net, example = run.experiment.plain(run.splits), bench.experiment.example(run.splits)
    size = bp.cost(net, example)
    epoch = 3 * size.macs * len(run.splits.train)
    ended_with(bench, run, net, size.macs, 1.8 * epoch)
    same, equal = bench.controls.scratch(run), bench.controls.scratch_equal(run)
    for row, epochs in ((same, run.experiment.epochs), (equal, 2)):
        assert (row.net, row.macs, row.params, row.branches) == ("resnet14", size.macs, size.params, (1, 6))
        assert len(row.epochs) == epochs and row.charged == epochs * epoch
    weights = [bp.load(run.folder / name / "model.safetensors").state_dict() for name in ("gated", "scratch")]
    assert not torch.equal(*(state["head.weight"] for state in weights))


def test_the_second_rise_is_that_of_the_gated_run(bench: Any, run: Any) -> None:
    """Half of a run with branches at default; behind it the rate is at the peak until it falls to 0."""
    net = run.experiment.plain(run.splits)
    ended_with(bench, run, net, 1, 1.0)
    risen, same = bench.controls.scratch_rise(run), bench.controls.scratch(run)
    assert risen.charged == same.charged and len(risen.epochs) == run.experiment.epochs
    (phase,) = bench.controls.SecondRise(0.5).setup(None).phases
    assert phase.rise_again == 0.5
    weights = [bp.load(run.folder / name / "model.safetensors").state_dict() for name in ("scratch-rise", "scratch")]
    assert not torch.equal(*(state["head.weight"] for state in weights))


def test_members_of_the_family_are_the_nearest_that_cost_no_more(bench: Any, run: Any) -> None:
    example = bench.experiment.example(run.splits)
    members = [replace(run.experiment, width=width) for width in (3, 4)]
    narrow, wide = (bp.cost(member.plain(run.splits), example).macs for member in members)
    shallow = bp.cost(replace(run.experiment, net="resnet8").plain(run.splits), example).macs
    assert narrow <= wide - 1 and shallow <= wide - 1
    ended_with(bench, run, run.experiment.plain(run.splits), wide - 1, 1.0)
    row = bench.controls.narrower(run)
    assert (row.net, row.macs, row.branches) == ("resnet14", narrow, (6, 6))
    row = bench.controls.shallower(run)
    assert (row.net, row.macs, row.branches) == ("resnet14", shallow, (3, 3))


def test_controls_wait_for_what_they_begin_with(bench: Any, run: Any) -> None:
    for control in ("scratch", "scratch-equal", "narrower", "shallower", "hesso"):
        with pytest.raises(SystemExit, match="run gated first"):
            bench.pipelines.PIPELINES[control](run)


def test_no_control_where_the_family_has_nothing_so_small(bench: Any, run: Any) -> None:
    ended_with(bench, run, run.experiment.plain(run.splits), 10, 1.0)
    for control in (bench.controls.shallower, bench.controls.narrower):
        with pytest.raises(bench.experiment.TooSmall, match="10 multiply-adds"):
            control(run)
    with pytest.raises(bench.experiment.TooSmall, match="no family of depths"):
        bench.controls.shallower(replace(run, experiment=replace(run.experiment, net="vgg16")))


# time -----------------------------------------------------------------------------------------------------------------


def test_the_processors_time_is_noted_by_epoch_over_breaks(bench: Any, tmp_path: Path) -> None:
    row = bp.training.EpochRow(1, "train", 0.5, 0.4, 0.6, 0.9, 7, 1.0, 100, 200, 1.5)
    deadline = bench.experiment.Deadline(math.inf, time.perf_counter())
    first = bench.running.Progress(tmp_path, deadline)
    busy = time.process_time()
    while time.process_time() < busy + 0.02:
        pass
    first(row)
    assert first.cpu["1"] >= 0.02
    time.sleep(0.02)  # which is no work
    after = bench.running.Progress(tmp_path, deadline)
    assert after.cpu == first.cpu and after.cpu_seconds(2) is None
    after(replace(row, epoch=2))
    if not torch.cuda.is_available():
        assert after.cpu_seconds(2) == [first.cpu["1"], after.cpu["2"]] and after.cpu["2"] < 0.02


def test_what_was_spent_adds_up(bench: Any) -> None:
    spent = bench.running.Spent(1.0, 2.0)
    assert spent.and_then([3.0, 4.0], [5.0, 6.0]) == bench.running.Spent(8.0, 13.0)
    assert spent.and_then([3.0], None) == bench.running.Spent(4.0, None)
    assert bench.running.Spent(1.0, None).and_then([3.0], [1.0]) == bench.running.Spent(4.0, None)


# hesso ----------------------------------------------------------------------------------------------------------------


def hesso_run(bench: Any, run: Any, folder: Path, share: float, minutes: float = math.inf) -> Any:
    """A network after some epochs with HESSO, the multiply-adds that it was to go down to, and an input."""
    if not bench.hesso.available():
        pytest.skip("needs the extra 'bench'")
    torch.manual_seed(0)
    net, example = replace(run.experiment, width=8).plain(run.splits), bench.experiment.example(run.splits)
    macs = round(share * bp.cost(net, example).macs)
    run = replace(run, deadline=bench.experiment.Deadline(minutes, time.perf_counter()))
    progress = bench.running.Progress(folder, run.deadline)
    bench.running.train_plainly(run, net, folder, 6, 0.05, progress, bench.hesso.Hesso(macs))
    return net, macs, example


def test_hesso_goes_down_to_what_it_is_asked_for(
    bench: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.hesso, "PERIODS", 9)  # as many as there are steps from a tenth to six tenths of 18
    net, macs, example = hesso_run(bench, run, tmp_path, 0.6)
    smaller = bench.hesso.pruned(net, example, macs)
    assert 0.4 * macs < bp.cost(smaller, example).macs <= macs
    x = run.splits.test[:32][0]
    torch.testing.assert_close(smaller.eval()(x), net.eval()(x), atol=1e-4, rtol=1e-4)
    with pytest.raises(bench.experiment.TooSmall, match="too short to go down to 1 "):
        bench.hesso.pruned(net, example, 1)


def test_a_broken_run_of_hesso_ends_as_an_unbroken_one(
    bench: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.hesso, "PERIODS", 4)  # two steps each, so that epochs end amid a period
    whole, *_ = hesso_run(bench, run, tmp_path / "whole", 0.3)
    for _ in range(5):
        with pytest.raises(bench.experiment.OutOfTime):
            hesso_run(bench, run, tmp_path / "broken", 0.3, minutes=0.0)
    broken, *_ = hesso_run(bench, run, tmp_path / "broken", 0.3)
    for one, other in zip(whole.state_dict().values(), broken.state_dict().values(), strict=True):
        assert torch.equal(one, other)
