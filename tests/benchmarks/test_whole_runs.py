"""Whole runs: each role is what it is called, times are paired, and the parts of a run's time add up to it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.comparison.material import fresh
from bayesprune.training import Settings
from tests.benchmarks.tables import cells


@pytest.fixture
def setting(bench: Any) -> Any:
    case = bench.cases.Case("LeNet-300-100, 200 digits", "lenet300", "digits", 10, 200, inputs=True)
    return bench.cases.prepare(case, "", validate=False)


def an_outcome(bench: Any, role: str, seed: int, seconds: float, **changes: Any) -> Any:
    return replace(bench.roles.Outcome(role, seed, 0.9 + seed / 100, 1000, 900, seconds, 10, 1.0), **changes)


# plain --------------------------------------------------------------------------------------------------------------


def test_the_plain_loop_takes_the_steps_that_plain_training_by_fit_takes(bench: Any, setting: Any) -> None:
    torch.manual_seed(0)
    ours = setting.plain()
    theirs = bp.compact(ours)
    adam = torch.optim.Adam(ours.parameters(), lr=1e-3, fused=True)
    bench.plain.train_plain(ours, setting.loaders(3)[0], 2, adam)
    bp.fit(theirs, setting.loaders(3)[0], epochs=2, method="none", settings=Settings(lr=1e-3), progress=False)
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, msg=lambda text, name=name: f"{name}: {text}")
    assert not ours.training


def test_fresh_weights_are_those_that_a_new_layer_draws(bench: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    torch.manual_seed(5)
    assert fresh(net) is net
    torch.manual_seed(5)
    new = [nn.Linear(3, 4), nn.Linear(4, 2)]
    assert torch.equal(net[0].weight, new[0].weight) and torch.equal(net[2][0].bias, new[1].bias)
    assert not any(torch.equal(before[name], weight) for name, weight in net.named_parameters())
    net.register_parameter("free", nn.Parameter(torch.zeros(1)))
    with pytest.raises(TypeError, match="Sequential does not say how its weights begin"):
        fresh(net)


def test_fresh_convolutions_are_drawn_as_those_of_a_new_network(bench: Any) -> None:
    torch.manual_seed(0)
    net = bp.compact(bp.networks.resnet(20, (3, 8, 8), width=32).train())
    fresh(net)
    weight = max((m.weight for m in net.modules() if isinstance(m, nn.Conv2d)), key=lambda w: w.numel())
    # He's law; of 147,456 and more draws the deviation has a standard error below 0.2 %.
    assert weight.detach().std() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.01)


# cases --------------------------------------------------------------------------------------------------------------


def test_images_held_out_are_the_last_and_are_not_trained_on(bench: Any) -> None:
    whole = bp.data.load("digits")
    splits = bench.cases.held_out(whole, None)
    count = len(whole.train) // 5
    assert torch.equal(splits.test.images, whole.train.images[-count:])
    assert torch.equal(splits.train.images, whole.train.images[:-count])
    fewer = bench.cases.held_out(whole, 100)
    assert len(fewer.train) == 100 and torch.equal(fewer.test.labels, splits.test.labels)


def test_every_case_builds_the_network_that_it_names(bench: Any) -> None:
    for name, case in bench.cases.CASES.items():
        shape = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 16, 16)}[case.data]
        setting = bench.cases.Setting(case, SimpleNamespace(input_shape=shape, num_classes=10, train=range(64)))
        gated = setting.gated()
        assert case.inputs == (any(gate.size == math.prod(shape) for gate in bp.layers.gates_of(gated).values()))
        assert bp.cost(gated, setting.example) == setting.whole, name
        assert setting.optimizer(setting.plain()).param_groups[0]["lr"] == setting.recipe.lr


# roles --------------------------------------------------------------------------------------------------------------


def test_work_is_what_a_run_was_charged_relative_to_the_dense_one(bench: Any, setting: Any) -> None:
    macs = setting.whole.macs
    examples = len(setting.splits.train) * setting.case.epochs
    assert bench.roles.work_of(3 * examples * macs, setting) == pytest.approx(1)
    # A third of the run at all of the multiply-adds, a third at 60 %, a third at 20 %.
    charged = sum(3 * examples / 3 * share * macs for share in (1, 0.6, 0.2))
    assert bench.roles.work_of(charged, setting) == pytest.approx(0.6)


@pytest.fixture
def run(bench: Any, setting: Any, tmp_path: Path) -> Any:
    """A run whose self-pruned network has 5 inputs, 7 and 3 units, and was charged what 4 epochs of it take."""
    net = setting.gated().eval()
    left = dict(zip(bp.layers.gates_of(net), (5, 7, 3), strict=True))
    for name, gate in bp.layers.gates_of(net).items():
        with torch.no_grad():
            gate.theta.zero_()[: left[name]] = 1.0
    small = bp.compact(net)
    bp.save(small, tmp_path / "self-pruned.safetensors")
    size = bp.cost(small, setting.example)
    assert size.macs == 5 * 7 + 7 * 3 + 3 * 10
    charged = 3.0 * size.macs * 200 * 4
    pruned = an_outcome(bench, "self-pruned", 0, 1.0, params=size.params, macs=size.macs, charged=charged, gates=left)
    bench.report.write_json(tmp_path / "self-pruned.json", asdict(pruned))
    return bench.roles.Run(setting, 0, tmp_path)


def test_the_same_widths_with_inputs_chosen_at_random(bench: Any, run: Any) -> None:
    chosen = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = bench.roles.same_widths(run)
        assert bp.cost(net, run.setting.example) == bp.cost(run.pruned()[1], run.setting.example)
        chosen.append(next(iter(net.buffers())).tolist())
    assert len(set(chosen[0])) == 5 and chosen[0] != chosen[1]


def test_scratch_takes_as_many_epochs_and_at_equal_compute_as_many_as_were_charged(bench: Any, run: Any) -> None:
    short = replace(run, setting=replace(run.setting, case=replace(run.setting.case, epochs=2)))
    pruned = short.pruned()[0]
    for role, epochs in {"scratch": 2, "scratch, equal compute": 4, "random inputs": 2}.items():
        one = bench.roles.outcome(short, role)
        assert (one.role, one.epochs, one.macs, one.params) == (role, epochs, pruned.macs, pruned.params)
        assert one.work == pytest.approx(pruned.macs * epochs / (2 * short.setting.whole.macs))


def test_a_finished_run_is_not_made_again(bench: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    made = an_outcome(bench, "dense", 0, 2.0)
    monkeypatch.setitem(bench.roles.ROLES, "dense", lambda run: calls.append("dense") or made)
    assert bench.roles.outcome(run, "dense") == bench.roles.outcome(run, "dense") == made
    assert calls == ["dense"]


def test_random_inputs_are_a_control_only_where_inputs_have_gates(bench: Any, setting: Any) -> None:
    assert bench.roles.roles_of(setting) == list(bench.roles.ROLES)
    other = replace(setting, case=replace(setting.case, inputs=False))
    assert bench.roles.roles_of(other) == [role for role in bench.roles.ROLES if role != "random inputs"]


def test_a_folder_is_kept_to_one_way(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "case" / "case.json"
    bench.report.same_as_before(path, {"epochs": 3, "net": "lenet5"})
    bench.report.same_as_before(path, {"epochs": 3, "net": "lenet5"})
    with pytest.raises(SystemExit, match="epochs was 3 and is 4"):
        bench.report.same_as_before(path, {"epochs": 4, "net": "lenet5"})


# breakdown ----------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_run_add_up_to_it_and_clocks_change_nothing(bench: Any, setting: Any, tmp_path: Path) -> None:
    def pruned(folder: Path) -> Any:
        folder.mkdir()
        return bench.roles.self_pruned(bench.roles.Run(setting, 0, folder))

    outcomes = [pruned(tmp_path / "plain")]
    began = time.process_time()
    found = bench.breakdown.breakdown(lambda: outcomes.append(pruned(tmp_path / "counted")))
    took = time.process_time() - began
    assert 0.5 * took < found.total <= took  # the rest is that of opening and shutting doors
    assert sum(map(found.share, found.seconds)) == pytest.approx(1)
    measured = {"forward", "backward", "backward, θ too", "optimiser", "loader", "draws", "estimator", "differences"}
    measured |= {"prices", "surgery", "records", "setting up", "rest", "multiplications, forward"}
    assert all(found.seconds[part] > 0 for part in measured)
    assert len(found.epochs) == setting.case.epochs and sum(spent for _, spent in found.epochs) < found.total
    assert 0 < found.clocks < 0.2 * found.total
    plain, counted = (replace(one, seconds=0.0) for one in outcomes)
    assert plain == counted and plain.macs < setting.whole.macs


# tables -------------------------------------------------------------------------------------------------------------


def test_ratios_are_medians_of_runs_of_one_seed(bench: Any, setting: Any) -> None:
    dense = [an_outcome(bench, "dense", seed, seconds) for seed, seconds in enumerate((1.0, 10.0, 2.0))]
    pruned = [an_outcome(bench, "self-pruned", seed, seconds) for seed, seconds in enumerate((2.0, 5.0, 2.4))]
    assert bench.run_tables.times(pruned, dense) == pytest.approx(1.2)  # of 2, 0.5 and 1.2
    pruned = [replace(one, work=0.3, macs=5020, params=5061) for one in pruned]
    found = {"digits": (setting, {"dense": dense, "self-pruned": pruned})}
    header, _, first, second = cells(bench.run_tables.runs_table(found))
    assert len({len(header), len(first), len(second)}) == 1
    line = dict(zip(header, second, strict=True))
    assert line["run"] == "**self-pruned**" and line["accuracy %"] == "91.00"
    assert line["single runs"] == "90.00, 91.00, 92.00" and line["seconds"] == "2.4" and line["× dense"] == "1.20"
    assert line["× self-pruned"] == "1.00"
    assert line["parameters"] == line["multiply-adds"] == "10.0 %"
    assert line["ideal"] == "0.30" and line["ideal over its own"] == "0.25"
    assert line["attainable"] == ""
    scratch = [an_outcome(bench, "scratch", seed, 0.4 * one.seconds, work=0.1) for seed, one in enumerate(dense)]
    found["digits"][1]["scratch"] = scratch  # 0.4 at 0.1 of the multiply-adds, 1 at all: of 0.2 / 0.9 of the way
    assert bench.run_tables.attainable(found["digits"][1]) == pytest.approx(0.4 + 0.6 * 0.2 / 0.9)
    assert cells(bench.run_tables.runs_table(found))[3][-1] == "0.53"
    del found["digits"][1]["scratch"]
    short = cells(bench.run_tables.short_table(found))
    assert short[0][2:] == ["dense", "self-pruned"]
    assert short[2][1:] == ["10.0 %", "91.00 % in 1.00", "91.00 % in 1.20"]


def test_the_breakdown_has_a_column_a_case(bench: Any, setting: Any) -> None:
    one = bench.breakdown.Breakdown(
        {"forward": 3.0, "rest": 1.0}, 0.1, [("sample", 1.0), ("sample", 2.0), ("settle", 0.2)]
    )
    lines = cells(bench.run_tables.breakdown_table({"a": (setting, one), "b": (setting, one)}))
    assert [line[0] for line in lines[2:]] == ["forward", "rest", "**all, seconds**", "of these the clocks"]
    assert [line[1] for line in lines[2:]] == [line[2] for line in lines[2:]] == ["75.0 %", "25.0 %", "4.0", "2.5 %"]
    runs = {"dense": [an_outcome(bench, "dense", 1, 1.0), an_outcome(bench, "dense", 0, 10.0)]}
    lines = cells(bench.run_tables.phases_table({"a": (setting, one, runs)}))
    assert [line[1:] for line in lines[2:]] == [["sample", "2", "1.50", "1.50"], ["settle", "1", "0.20", "0.20"]]


# defaults -----------------------------------------------------------------------------------------------------------
