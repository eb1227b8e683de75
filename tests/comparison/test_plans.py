"""Settings: those of the package can be read and name every method; others are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayesprune.comparison import Plan
from bayesprune.comparison.material import Material, example
from bayesprune.errors import BayesPruneError, ConfigError
from bayesprune.layers import gates_of
from bayesprune.methods import NAMES
from bayesprune.methods.protocol.structures import ranked_groups
from tests.comparison.toys import settings

REDUCED = Path(__file__).parents[2] / "examples" / "benchmarks"


def test_the_full_settings_name_every_method() -> None:
    full, quick = Plan.read("full"), Plan.read("quick")
    assert set(full.methods) == {*NAMES, "small"}
    assert [Plan.of_text(plan.text()) for plan in (full, quick)] == [full, quick]
    assert set(quick.methods) < set(full.methods) and full.digest != quick.digest
    for name in ("reduced", "reduced_cifar"):
        assert set(Plan.read(REDUCED / f"{name}.toml").methods) < set(full.methods)


def test_what_ours_can_take_away_in_quick_can_be_ranked_too() -> None:
    """Gates on inputs, which only ours can take away, would be an advantage that is not of the method."""
    task, other = Plan.read("quick").tasks
    assert (other.net, other.convert) == (task.net, task.convert)
    splits = Material().splits(task)
    net = Material().network(task, splits)
    ranked = {name for group in ranked_groups(net, example(splits)) for name in group.gates}
    assert ranked == {*gates_of(net)} and len(ranked) == 2


def test_a_plan_does_not_depend_on_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('title = "a"\nseeds = [1]\nmacs = [0.5]\n[tuning]\ntrials = 1\nseed = 2\n'
                    '[[tasks]]\nnet = "lenet300"\ndata = "digits"\nepochs = 3\n[methods.none]\n')  # fmt: skip
    task = {"net": "lenet300", "data": "digits", "epochs": 3}
    given = {"title": "a", "seeds": [1], "macs": [0.5], "tuning": {"trials": 1, "seed": 2}}
    given |= {"tasks": [task], "methods": {"none": {}}}
    assert Plan.read(path).digest == Plan.read(given).digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": []}, "name no seeds"),
        ({"macs": [], "weights": []}, "name no goals; give shares as macs, weights or both"),
        ({"seeds": [7]}, "differ from each other and from that of tuning"),
        ({"seeds": [-1]}, "a seed must be a whole number"),
        ({"macs": 0.5}, "macs must be a list"),
        ({"macs": [2.0]}, "each of macs"),
        ({"compute": [0]}, "each of compute"),
        ({"macs": [0.5, 0.5]}, "macs has 0.5 twice"),
        ({"weights": [0.1, 0.5, 0.1]}, "weights has 0.1 twice"),
        ({"compute": [1, 1.0]}, "compute has 1.0 twice"),
        ({"retrained": ["none", "none"]}, "retrained has 'none' twice"),
        ({"methods": {"nothing": {}}}, "unknown method 'nothing'"),
        ({"methods": {"taylor": {"macs_": [1]}}}, "taylor has no option 'macs_'"),
        ({"methods": {"taylor": {"until": 0.5}}}, "methods.taylor.until: expected"),
        ({"methods": {"taylor": {"until": {"low": 1, "high": 0}}}}, "low < high"),
        ({"methods": {"taylor": {"macs": [0.5]}}}, "the goal says"),
        (
            {"tasks": [{"net": "a"}]},
            "task 1 must have data, epochs; known are net, data, epochs, limit, side, width, convert",
        ),
        (
            {"tasks": [{"net": "a", "data": "b", "epochs": 1, "with": 8}]},
            "task 1 has no key 'with' (did you mean 'width'?); known are net, data",
        ),
        ({"tasks": {"net": "a"}}, "tasks must be a list of tables, [[tasks]]"),
        ({"tasks": [{"net": "a", "data": "b", "epochs": 1, "convert": 1}]}, "convert must be True or False"),
        ({"tasks": [{"net": "a", "data": "b", "epochs": 0}]}, "epochs of a-b"),
        ({"tasks": [{"net": "a", "data": "b", "epochs": 1}] * 2}, "each pair may be there once"),
        ({"tuning": {"trials": 0, "seed": 7}}, "tuning.trials"),
        ({"tuning": {"trials": 1, "seed": 7, "macs": 2}}, "tuning.macs"),
        ({"tuning": []}, "tuning must be a table"),
        (
            {"tuning": {"trails": 3, "seed": 7}},
            "tuning has no key 'trails' (did you mean 'trials'?); known are trials, seed, held_out",
        ),
        ({"methods": {"taylor": 3}}, "methods.taylor must be a table"),
        ({"retrained": ["svi"]}, "retrained names svi, but methods does not"),
        ({"retrained": ["none"]}, "has no 'small'"),
        ({"untuned": ["none", "svi"]}, "untuned names svi, but methods does not"),
        ({"untuned": ["none", "none"]}, "untuned has 'none' twice"),
        ({"colour": 1}, "a settings file has no key 'colour'; known are title, tasks, methods, seeds"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Plan.read(settings(**change))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_all_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="a settings file must have tasks, methods, seeds, tuning; known are title"):
        Plan.read({"title": "x"})


def test_files_that_are_no_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(BayesPruneError, match="cannot read the settings"):
        Plan.read(path)
    path.write_text("= 3")
    with pytest.raises(ConfigError, match="is no TOML"):
        Plan.read(path)


def test_some_of_the_methods_are_compared_alone() -> None:
    plan = Plan.read("quick")
    some = plan.only(methods=["svi", "small"])
    assert list(some.methods) == ["svi", "small"] and some.tasks == plan.tasks
    assert plan.only(methods=["small"]).retrained == ()
    with pytest.raises(ConfigError, match=r"have no method 'taylr' .*taylor"):
        plan.only(methods=["taylr"])
    with pytest.raises(ConfigError, match="methods has 'svi' twice"):
        plan.only(methods=["svi", "small", "svi"])


def test_methods_are_compared_on_some_of_the_tasks_alone() -> None:
    plan = Plan.read("quick")
    first, second = plan.tasks
    assert plan.only(tasks=[second.name]).tasks == (second,) and plan.only(tasks=[second.name]).methods == plan.methods
    assert plan.only() == plan
    with pytest.raises(ConfigError, match=f"have no task 'lenet300'.*they have {first.name}, {second.name}"):
        plan.only(tasks=["lenet300"])
    with pytest.raises(ConfigError, match=f"tasks has '{first.name}' twice"):
        plan.only(tasks=[first.name, first.name])
