"""What a page holds is what the records say; it needs no other file, and is not too large."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesprune.errors import ConfigError
from bayesprune.reports import RunReport, write_report
from bayesprune.reports.courses import learning, trajectories
from bayesprune.reports.courses import theta as path_of
from bayesprune.reports.judgements import evidence
from bayesprune.reports.layers import FRAMES, MOST, Layer, frames
from bayesprune.reports.page import as_json, seconds, share
from bayesprune.training import History
from bayesprune.types import Removal
from tests.reports.told import EPOCHS, history, row, told

LARGEST = 3_000_000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report([told()], path)
    return path.read_text(encoding="utf-8")


def data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_data_on_the_page_are_those_of_the_record(page: str) -> None:
    run, known = data(page)["runs"][0], history()
    assert run["epochs"] == list(range(EPOCHS + 1))
    inputs, units, branches = run["layers"]
    assert (inputs["title"], inputs["shape"], units["title"]) == ("inputs", [1, 3, 4], "module 2")
    assert branches["names"] == ["block", "branch"]
    for layer, name in ((inputs, "1"), (units, "2")):
        assert torch.tensor(layer["theta"]).allclose(torch.stack(known.thetas[name]), atol=1e-5)
        assert torch.tensor(layer["evidence"]).allclose(known.evidence[name], rtol=1e-4, atol=1e-9)
        assert layer["saved"] == [[7, 7]]  # of all of them
        gone = {str(removal.index): removal.step for removal in known.removals if removal.gate == name}
        assert {k: step for k, (step, _) in layer["removals"].items()} == gone


def test_the_figures_stand_in_its_text(page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page[: page.index('id="data"')]))
    for figure in ("87.50 %", "6.25 %", "500 of 1,000", "2,400 of 5,000", "20 of 44", "1.5 ms", "2 ms", "met"):
        assert figure in text
    assert "runs/mine/model.safetensors" in page and 'class="filters"' in page


def test_a_page_needs_no_other_file_and_is_not_too_large(page: str) -> None:
    assert len(page.encode()) < LARGEST
    head = page[: page.index('id="data"')] + page[page.rindex("<script>") :]
    assert not re.findall(r"<link|<img|@import|\ssrc=|https?://", head)


@pytest.mark.slow
def test_a_page_on_tens_of_thousands_of_structures_is_not_too_large(tmp_path: Path) -> None:
    generator, known = torch.Generator().manual_seed(0), History([row(epoch, 0) for epoch in range(1, 31)])
    for number in range(13):
        name, size = f"layer{number}", 2048
        known.thetas[name] = [torch.rand(size, generator=generator) for _ in range(31)]
        known.evidence[name] = torch.randn(size, 3, generator=generator) / 1000
        known.removals += [Removal(12345, name, k, 0.0, 0.001, 0.123456) for k in range(size)]
    write_report([RunReport(name="large", history=known)], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < LARGEST


def test_the_accuracy_of_a_command_is_that_of_the_test_split() -> None:
    of_a_command, of_fit = told(), RunReport(name="a", history=history())
    assert of_a_command.curves()[0].text.startswith("Accuracy on the test examples after every epoch: 58.00 %")
    assert of_fit.curves()[0].text.startswith("Accuracy on the validation examples after every epoch: 58.00 %")


def test_every_chart_has_a_place_and_says_what_it_shows(page: str) -> None:
    drawn = set(data(page)["charts"])
    assert drawn == set(re.findall(r'role="img" aria-label="[^"]+"><div id="chart-([^"]+)"', page))
    assert {"0-learning", "0-shrinking", "0-price", "0-reliability", "0-evidence-0", "0-theta"} <= drawn


def test_several_runs_are_compared_by_their_figures_and_what_differs(tmp_path: Path) -> None:
    write_report([told("a", 0), told("b", 1)], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = page[page.index("side-by-side") : page.index('id="run-0"')]
    assert table.count("87.50 %") == 2 and '<th scope="row">seed</th>' in table and "net" not in table
    assert "runs" in data(page)["charts"] and len(data(page)["runs"]) == 2


def test_runs_without_results_images_or_gates_are_told_of(tmp_path: Path) -> None:
    known = history()
    unfinished = RunReport(name="unfinished", history=known, epochs=9, inputs=("1", (12,)), num_data=100)
    assert repr(unfinished) == "RunReport('unfinished', epoch 5 of 9)" and unfinished.unfinished
    write_report([unfinished, RunReport(name="plain", history=History([row(1, 0)]))], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "5 of 9 epochs are done" in page and "0-inclusion" in data(page)["charts"]
    assert data(page)["runs"][1]["layers"] == []


def test_intervals_of_inclusion_are_those_of_the_log_odds(tmp_path: Path) -> None:
    theta, error, num_data = 0.75, 0.004, 100
    known = history()
    known.thetas["1"][-1] = torch.full((12,), theta)
    report = RunReport(
        name="table", history=known, inputs=("1", (12,)), names=[f"c{k}" for k in range(12)], num_data=num_data
    )
    chart = report.inclusion()
    assert chart is not None
    first = chart.spec["data"]["values"][0]
    logit = torch.tensor(theta, dtype=torch.float64).logit()
    half = 1.96 * num_data * error
    assert first["name"] == "c0" and first["probability"] == theta
    assert first["low"] == pytest.approx(float((logit - half).sigmoid()), rel=1e-4)
    assert first["high"] == pytest.approx(float((logit + half).sigmoid()), rel=1e-4)


def test_the_row_of_a_layer_counts_what_is_clear() -> None:
    evidence = torch.tensor([[0.1, 0.05, 0.01], [0.1, 0.01, 0.01], [0.1, -0.2, 0.01], [0.1, 0.2, torch.nan]])
    theta = torch.tensor([[1.0, 1, 1, 1], [0, 0, 1, 0]])
    layer = Layer(
        title="x", kind="structures", names=list("abcd"), theta=theta, evidence=evidence, saved=None, removals={}
    )
    found = layer.summary()
    assert (found.start, found.left, found.measured, found.clear) == (4, 1, 2, 1)
    assert found.worth_left == pytest.approx(0.3) and found.price == pytest.approx(0.1)


def test_what_a_budget_forced_is_said_and_whether_it_is_met(tmp_path: Path) -> None:
    known = history()
    write_report([RunReport(name="a", history=known, settings={"budget": "macs=0.5"})], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "for the sake of the budget" not in page and "<small>met</small>" in page  # expected is 0.5
    known.removals[0] = dataclasses.replace(known.removals[0], forced=True)
    report = RunReport(name="a", history=known, settings={"budget": "macs=0.4"})
    write_report([report], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<p>1 of the removed went for the sake of the budget" in page and "<small>not met</small>" in page
    first = known.removals[0]
    gone = next(layer for layer in data(page)["runs"][0]["layers"] if str(first.index) in layer["removals"])["removals"]
    assert gone[str(first.index)] == [first.step, first.weight_norm, 1]  # said where one points at it
    assert sum(len(each) == 3 for layer in data(page)["runs"][0]["layers"] for each in layer["removals"].values()) == 1
    assert RunReport(name="a", history=known, settings={"budget": "macs=0.4"}, epochs=9).budget_met is None


def test_what_is_not_set_and_the_unit_of_prices_are_told_side_by_side(tmp_path: Path) -> None:
    runs = [
        RunReport(name=name, history=history(), settings={"price": price}) for name, price in (("a", None), ("b", 0.2))
    ]
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    row = page[page.index("price, nats an example") :]
    assert re.findall(r'<td class="number">(.*?)</td>', row)[:2] == ["–", "0.2"]


def test_short_runs_have_whole_epochs_and_one_structure_has_a_scale() -> None:
    known = history()
    for chart, first in ((learning(known.rows[:3], "test"), 1), (path_of(3), 0)):
        assert chart.spec["layer"][0]["encoding"]["x"]["axis"]["values"] == list(range(first, 4))
    layer = Layer(
        title="x", kind="branches", names=["a"], theta=torch.zeros(2, 1), saved=None, removals={},
        evidence=torch.tensor([[0.08, -0.059, 0.02]]),
    )  # fmt: skip
    chart = evidence(layer, 0)
    assert chart is not None and chart.spec["layer"][1]["encoding"]["y"]["axis"]["values"] == [0, 0.02, 0.05]


def test_runs_are_compared_where_they_end() -> None:
    """What is shown ends at twice the cost of the larger one, and each has a sign of its own."""
    long = History([row(epoch, 0) for epoch in range(1, 6)])
    chart = trajectories({"long": long, "short": History(long.rows[:4])}, {"long": 5000, "short": 5000})
    lines, points = chart.spec["layer"]
    assert lines["encoding"]["x"]["scale"]["domain"] == [0, 1.0] and lines["mark"]["clip"]
    assert lines["encoding"]["y"]["scale"]["domain"] == pytest.approx([0.82 - 0.08, 0.98])
    assert "long at 50.0 %, 90.00 % right; short at 60.0 %, 82.00 % right" in chart.text
    assert points["encoding"]["shape"]["scale"]["range"][:2] == ["circle", "square"]


def test_moments_are_thinned_where_there_are_many() -> None:
    assert frames(History(thetas={"a": [torch.ones(10)] * 4})) == [0, 1, 2, 3]
    many = frames(History(thetas={"a": [torch.ones(10)] * 1001}))
    assert (many[0], many[-1], len(many)) == (0, 1000, FRAMES)
    wide = frames(History(thetas={"a": [torch.ones(1)] * 50, "b": [torch.ones(MOST // 5)] * 50}))
    assert (wide[0], wide[-1]) == (0, 49) and len(wide) == 4


@pytest.mark.parametrize("runs", [[], [told("a"), told("a")]])
def test_no_runs_and_two_of_one_name_are_refused(runs: list[RunReport], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each with a name of its own"):
        write_report(runs, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_an_epoch_is_refused() -> None:
    with pytest.raises(ConfigError, match="no finished epoch"):
        RunReport(name="new", history=History())


def test_text_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    name = "</script><b>&"
    write_report([RunReport(name=name, history=history())], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert name not in page and data(page)["runs"][0]["name"] == name
    assert as_json("</script>") == '"\\u003c/script>"'


@pytest.mark.parametrize(("value", "said"), [(2.5e-6, "2.5 µs"), (1.5e-3, "1.5 ms"), (1.5, "1.5 s"), (150, "2.5 min")])
def test_times_have_a_unit_that_suits_them(value: float, said: str) -> None:
    assert seconds(value) == said


def test_shares_are_percentages() -> None:
    assert [share(value) for value in (0.12345, 1.0, None, float("nan"))] == ["12.35 %", "100.0 %", "–", "–"]
