"""`bayesprune report`: the page of a run holds what its files say, and what is no run is refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesprune import layers
from bayesprune.cli.reporting import PAGE, first_filters, read_runs, saved_alone
from bayesprune.methods.svi.budget import Budget
from bayesprune.pruning import cost
from bayesprune.training import Settings, fit
from bayesprune.training.checkpoint import read_checkpoint
from tests.cli.verify import TINY, listing, verify_done, verify_refused
from tests.training.problems import Batches, bayesian, branches, examples


@pytest.fixture(autouse=True)
def without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script takes a second and is the same on every page."""
    monkeypatch.setattr("bayesprune.reports.run.vega", str)


def told(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_of_a_finished_run_is_what_its_files_say(finished: Path) -> None:
    assert f"page: {finished / PAGE}" in verify_done("report", finished)
    page, state = (finished / PAGE).read_text(encoding="utf-8"), read_checkpoint(finished / "checkpoint.pt")
    result = json.loads((finished / "result.json").read_text())
    (run,) = told(finished / PAGE)["runs"]
    assert [layer["title"] for layer in run["layers"]] == ["inputs", "module 2", "module 4"]
    for layer, name in zip(run["layers"], ("1", "2", "4"), strict=True):
        assert torch.tensor(layer["theta"]).allclose(state["history"]["thetas"][name], atol=1e-5)
        assert len(layer["evidence"]) == len(layer["theta"][0]) and len(layer["saved"]) == 1
    assert sum(len(layer["removals"]) for layer in run["layers"]) == len(state["history"]["removals"])
    for figure in (f"{100 * result['accuracy']:.2f} %", f"{result['params']:,}", f"{result['macs']:,}", "latency"):
        assert figure in page
    count = sum(each["count"] for each in result["reliability"])
    assert count == 360 and "0-reliability" in told(finished / PAGE)["charts"]


def test_the_table_of_a_page_is_printed_as_json(finished: Path) -> None:
    record = json.loads(verify_done("report", finished, "--json"))
    result = json.loads((finished / "result.json").read_text())
    assert record["page"] == str(finished / PAGE) and (finished / PAGE).is_file()
    (run,) = record["runs"]
    same = "accuracy", "gates", "gates_left", "params", "macs", "dense_params", "dense_macs", "budget", "budget_met"
    assert {name: run[name] for name in same} == {name: pytest.approx(result[name], abs=1e-4) for name in same}
    assert (run["epoch"], run["epochs"], run["forced"]) == (6, 6, 0) and min(run["latency"]) > 0
    assert [(row["title"], row["start"]) for row in run["layers"]] == [
        ("inputs", 64), ("module 2", 300), ("module 4", 100)
    ]  # fmt: skip
    assert sum(row["left"] for row in run["layers"]) == result["gates_left"]


def test_a_run_that_is_not_finished_is_told_as_far_as_it_is(finished: Path, tmp_path: Path) -> None:
    for name in ("result.json", "model.safetensors", "history.csv", "removals.csv"):
        (finished / name).unlink()
    verify_done("report", finished, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"bayesprune train --resume {finished}" in page and "latency" not in page
    assert listing(finished) == ["checkpoint.pt", "config.json", "gates.png", "reliability.png"]


def test_a_run_of_fit_is_told_by_its_checkpoint(finished: Path) -> None:
    for path in finished.iterdir():
        if path.name != "checkpoint.pt":
            path.unlink()
    (run,) = read_runs([finished])
    assert run.result is None and run.inputs == ("1", (64,)) and run.settings == {}
    verify_done("report", finished)
    for command in (("export", finished, "--format", "onnx", "--out", "a.onnx"), ("evaluate", finished)):
        verify_refused(*command, says=("a run of bp.fit", "bp.save(bp.compact(bnn)", "bp.pruning.export_onnx("))


def test_a_run_of_fit_has_its_budget_on_its_page(tmp_path: Path) -> None:
    net = bayesian(branches())
    schedule = {"sample_from": 0.5, "settle_from": 0.5, "fine_tune_from": 0.5}
    settings = Settings(budget=Budget("macs", 0.8), schedule=schedule)
    with pytest.warns(UserWarning, match="had to be switched off"):
        fit(net, Batches(*examples()), epochs=2, settings=settings, out=tmp_path)
    (run,) = read_runs([tmp_path])
    assert run.settings == {"budget": "macs=0.8"} and run.budget_met and run.forced == len(run.history.removals) == 2


def test_several_runs_are_told_side_by_side(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verify_done("train", *TINY, "--seed", "4", "--out", "other")
    assert f"page: {PAGE}" in verify_done("report", finished, "other")
    assert [run["name"] for run in told(tmp_path / PAGE)["runs"]] == ["run", "other"]
    assert '<th scope="row">seed</th>' in (tmp_path / PAGE).read_text(encoding="utf-8")
    names = [run.name for run in read_runs([finished, finished])]
    assert names == [str(finished)] * 2  # of which the page says that two are alike
    verify_refused("report", finished, finished, says=("a name of its own",))


def test_what_is_no_run_and_what_has_no_epoch_are_refused(finished: Path, tmp_path: Path) -> None:
    verify_refused("report", tmp_path / "nowhere", says=("nowhere", "not the folder of a run"))
    (finished / "checkpoint.pt").unlink()
    verify_refused("report", finished, says=("has not finished an epoch", f"--resume {finished}"))
    assert not (finished / PAGE).exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("checkpoint.pt", b"damaged", "not a checkpoint"),
        ("result.json", b"{}", "damaged"),
        ("result.json", b"{", "damaged"),
        ("config.json", b"[]", "damaged"),
        ("model.safetensors", b"damaged", "model.safetensors"),
    ],
)
def test_damaged_files_are_refused(finished: Path, name: str, content: bytes, says: str) -> None:
    (finished / name).write_bytes(content)
    verify_refused("report", finished, says=(str(finished), says))
    assert not (finished / PAGE).exists()


def test_files_of_another_run_are_refused(finished: Path) -> None:
    path = finished / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": "another"}))
    verify_refused("report", finished, says=("another run",))


def test_what_goes_with_a_structure_alone_is_what_the_network_costs_less_without_it() -> None:
    net = torch.nn.Sequential(layers.Gate(3), layers.Linear(3, 4, gate="unit"), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    saved = saved_alone(net, torch.zeros(1, 3))
    assert saved["0"].tolist() == [[4, 4]] * 3 and saved["1"].tolist() == [[3 + 1 + 2, 3 + 2]] * 4
    size = cost(net, torch.zeros(1, 3))
    with torch.no_grad():
        net[1].gate.theta[0] = 0.0
    from bayesprune.pruning import compact

    less = cost(compact(net), torch.zeros(1, 3))
    assert (size.params - less.params, (size.macs or 0) - (less.macs or 0)) == (6, 5)


def test_filters_are_those_of_a_first_convolution_of_images() -> None:
    image, features = torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(8, 5, 3)
    found = first_filters(torch.nn.Sequential(image, torch.nn.Flatten(), torch.nn.Linear(5, 2)))
    assert found is not None and found.shape == (5, 3, 3, 3)
    assert first_filters(torch.nn.Sequential(features)) is None
    assert first_filters(torch.nn.Sequential(torch.nn.Linear(4, 2), image)) is None
