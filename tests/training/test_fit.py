"""`fit`: what it refuses, what it records, and that gates end where the data say."""

from __future__ import annotations

import csv
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data.images import Raw, make_splits
from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import ConfigError, DataError, NonFiniteLossError
from bayesprune.infer import BayesianNet
from bayesprune.pruning import CostPrice, compact, cost, gates_left
from bayesprune.training import EpochRow, Settings, evaluate, fit
from tests.training.problems import (
    EXAMPLES,
    INFORMATIVE,
    NOISE,
    REST,
    Batches,
    bayesian,
    convolutional,
    examples,
    set_theta,
    shuffled,
    units,
)

QUICK = {
    "sample_from": 0.05, "settle_from": 0.4, "fine_tune_from": 0.75, "travel": 5.0, "checks_per_epoch": 3,
}  # fmt: skip


def batches(x: Tensor | None = None, y: Tensor | None = None) -> Batches:
    mine, theirs = examples()
    return Batches(mine if x is None else x, theirs if y is None else y)


def with_nan() -> Tensor:
    x, _ = examples()
    x[0, 0] = math.nan
    return x


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (lambda: iter(batches()), ConfigError, "is an iterator"),
        (lambda: [], DataError, "gave no batch"),
        (lambda: shuffled(400), ConfigError, "num_data=480, but the train_loader's data set has 400 examples"),
        (lambda: DataLoader(TensorDataset(with_nan(), examples()[1]), 480), DataError, "NaN or infinite inputs"),
        (lambda: batches(y=examples()[1] + 1), DataError, "labels run from 1 to 2, but the network has 2 outputs"),
        (lambda: batches(y=examples()[1] - 1), DataError, "labels run from -1 to 0"),
        (lambda: batches(y=examples()[1].float()), DataError, "expected integer labels"),
    ],
)
def test_refused_data(loader, error: type[Exception], message: str) -> None:
    net = bayesian(units())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(error, match=message):
        fit(net, loader(), epochs=1)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("epochs", "settings", "message"),
    [
        (0, Settings(), "fit: epochs must be a whole number, at least 1, got 0"),
        (1, Settings(optimizer=torch.optim.AdamW), "AdamW decouples weight decay"),
        (1, Settings(estimator="unheard-of"), "unheard-of"),
        (1, Settings(schedule={"sample_from": 0.9, "settle_from": 0.2}), "expected 0 <= sample_from <= settle_from"),
        (1, Settings(schedule={"sample": 0.4}), "Settings.schedule has no field 'sample'"),
    ],
)
def test_refused_settings(epochs: int, settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(bayesian(units()), batches(), epochs=epochs, settings=settings)


class Spoilt(Batches):
    """Inputs are NaN (or finite and huge) from this epoch on."""

    def __init__(self, epoch: int, factor: float = math.nan):
        super().__init__(*examples())
        self.first_bad, self.factor = epoch, factor

    def __iter__(self):
        for k, (x, y) in enumerate(super().__iter__()):
            yield (x * self.factor if self.epoch >= self.first_bad and k else x), y


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"nan in epoch 3; the last good checkpoint is .*checkpoint\.pt\. Try"):
        fit(bayesian(units()), Spoilt(2), epochs=4, out=tmp_path)
    left = (tmp_path / "history.csv").read_text().splitlines()
    assert len(left) == 3
    history = fit(bayesian(units()), Batches(*examples()), epochs=4, out=tmp_path)
    assert [row.epoch for row in history.rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("folder", [True, False])
def test_a_loss_that_is_not_finite_at_once(tmp_path: Path, folder: bool) -> None:
    with pytest.raises(NonFiniteLossError, match=r"in epoch 1; no checkpoint was written yet\. .*now 0\.003"):
        fit(
            bayesian(units()),
            Spoilt(0, 7e37),
            epochs=2,
            settings=Settings(),
            out=tmp_path if folder else None,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_running_statistic_that_is_not_finite_ends_the_run() -> None:
    """Inputs of 1e20 have no variance in float32, while what comes out of the normalisation is finite in training."""
    torch.manual_seed(0)
    x, y = examples()
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False))
    nn.init.constant_(net[2].weight, 1e25)
    with pytest.raises(NonFiniteLossError, match=r"in epoch 1, and 3\.running_var of the network is no longer finite;"):
        fit(net, Batches(x, y), epochs=2, method="none", settings=Settings(lr=1e-30))


class Lying(Batches):
    """Says that it has so many batches more than it has; negative for fewer."""

    def __init__(self, more: int, endless: bool = False):
        super().__init__(*examples())
        self.more, self.endless = more, endless

    def __len__(self) -> int:
        return super().__len__() + self.more

    def __iter__(self):
        yield from super().__iter__()
        while self.endless:
            yield self.x[:40], self.y[:40]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (Lying(2), "len.train_loader. says 14 batches an epoch, but it gave 12; they must agree"),
        (Lying(-3), "says 9 batches an epoch, but it gave more than 9; they must agree"),
        (Lying(0, endless=True), "says 12 batches an epoch, but it gave more"),
    ],
)
def test_a_length_that_is_wrong_is_refused_at_the_end_of_the_first_epoch(loader: Lying, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(bayesian(units()), loader, epochs=2)


def test_history_and_its_file(tmp_path: Path) -> None:
    seen: list[EpochRow] = []
    folder = tmp_path / "new" / "folder"
    net, loader = bayesian(units()), Batches(*examples())
    history = fit(net, loader, epochs=5, val_loader=loader, out=folder, on_epoch=seen.append)
    assert seen == history.rows and [row.epoch for row in seen] == [1, 2, 3, 4, 5]
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt", "history.csv"}
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [f.name for f in fields(EpochRow)] and len(rows) == 5
    for row, written in zip(seen, rows, strict=True):
        for field in fields(EpochRow):
            assert written[field.name] == str(getattr(row, field.name))
    last = seen[-1]
    size = cost(net, examples()[0])
    assert (last.params, last.macs, last.gates_left) == (size.params, size.macs, gates_left(net.theta))
    score = evaluate(net, loader)
    assert (last.val_nll, last.val_accuracy) == (score.nll, score.accuracy)
    assert net.num_gates == 14 - len(history.removals)
    paths = {name: torch.stack(path) for name, path in history.thetas.items()}
    assert {name: path.shape for name, path in paths.items()} == {"0": (6, 8), "1": (6, 6)}
    assert bool((paths["0"][0] == 0.9).all())
    interior = sum(int(((path[-1] > 0.01) & (path[-1] < 0.99)).sum()) for path in paths.values())
    assert last.gates_converged == pytest.approx(1 - interior / 14)
    for removal in history.removals:
        assert paths[removal.gate][-1, removal.index] == 0


def test_a_row_by_hand() -> None:
    """No learning, no steps of θ, gates at 0 and 1: every number of a row can be computed outside."""
    net, loader = bayesian(units(), log_gamma=3.0, weight_precision=2.0), Batches(*examples())
    set_theta(net, g0=[1, 1, 1, 0, 0, 1, 1, 1], g1=[1, 1, 0, 1, 1, 1])
    net.net.requires_grad_(False)
    row = fit(net, loader, epochs=1, settings=Settings(schedule=REST)).rows[0]
    x, y = examples()
    nll = float(nn.functional.cross_entropy(net.eval()(x), y).detach())
    slab = sum(float(p.detach().square().sum()) for p in net.weights().values()) * 2.0 / (2 * EXAMPLES)
    assert row.nll == pytest.approx(nll, rel=1e-5)
    assert row.loss == pytest.approx(nll + 11 * 3.0 / EXAMPLES + slab, rel=1e-5)
    assert (row.phase, row.gates_left, row.gates_converged) == ("warm-up", 11, 1.0)
    assert math.isnan(row.val_nll) and math.isnan(row.val_accuracy)


@pytest.mark.seed(1)
@pytest.mark.statistical
@pytest.mark.parametrize("price", [None, CostPrice(0.05)])
def test_noise_inputs_go_and_informative_ones_stay(price: CostPrice | None) -> None:
    """Classes told apart by three of eight inputs. Seeds 0 to 10 all end with these inputs; one of them is fixed."""
    net, loader = bayesian(units(), log_gamma=2.0), shuffled()
    history = fit(net, loader, epochs=40, settings=Settings(lr=0.02, price=price, schedule=QUICK))
    final = history.thetas["0"][-1]
    assert final.tolist() == [1.0] * INFORMATIVE + [0.0] * NOISE
    assert {r.index for r in history.removals if r.gate == "0"} == set(range(INFORMATIVE, INFORMATIVE + NOISE))
    assert history.rows[-1].gates_converged == 1.0
    score = evaluate(net, loader)
    assert score.accuracy > 0.98
    x, _ = examples()
    small = compact(net)
    torch.testing.assert_close(small(x), net.eval()(x))
    assert cost(small, x).params == history.rows[-1].params == cost(net, x).params


@pytest.mark.seed(2)
def test_without_pruning_gates_converge_and_nothing_is_removed() -> None:
    net = bayesian(units(), log_gamma=4.0)
    history = fit(net, shuffled(), epochs=12, prune=False, settings=Settings(lr=0.02, schedule=QUICK))
    assert history.removals == [] and net.num_gates == 14
    assert history.rows[-1].gates_left == gates_left(net.theta) and history.rows[-1].gates_converged > 0.9
    assert net.gate_probs()["0"][INFORMATIVE:].max() < 0.5


def test_a_second_fit_starts_a_new_record_on_what_is_left() -> None:
    net, loader = bayesian(units(), log_gamma=4.0), shuffled()
    first = fit(net, loader, epochs=10, settings=Settings(lr=0.02, schedule=QUICK))
    left = {name: len(theta) for name, theta in net.gate_probs().items()}
    assert sum(left.values()) < 14
    second = fit(net, loader, epochs=3, settings=Settings(lr=0.02, schedule=QUICK))
    assert [row.epoch for row in second.rows] == [1, 2, 3]
    assert {name: len(path[0]) for name, path in second.thetas.items()} == left
    assert second.rows[-1].params <= first.rows[-1].params
    assert all(r.index < left[r.gate] for r in second.removals)


def test_batch_normalisation_and_convolutions_train_and_prune() -> None:
    x, y = examples()
    net = bayesian(convolutional(), log_gamma=5.0)
    history = fit(net, Batches(x[:, None], y), epochs=8, settings=Settings(lr=0.02, schedule=QUICK))
    assert history.rows[-1].nll < history.rows[0].nll
    outputs = net.eval()(x[:, None])
    torch.testing.assert_close(compact(net)(x[:, None]), outputs, rtol=1e-4, atol=1e-5)


def test_labels_of_an_epoch_loader_are_checked_whole_before_training_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one wrong label is not in the first batch; no batch of such a loader is looked at while training."""
    pixels = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)
    raw = Raw(pixels, torch.arange(10) % 2)
    loader, _ = bp.data.loaders(make_splits("small", raw, raw, 2), 2, 0)
    net = nn.Sequential(nn.Flatten(), bp.layers.Linear(4, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 2))
    bnn = BayesianNet(net, num_data=10)
    monkeypatch.setattr("bayesprune.training.reader.check_batch", lambda *_: pytest.fail("waits for the device"))
    fit(bnn, loader, epochs=1, settings=Settings(schedule=REST))
    loader.set_epoch(0)
    *_, last = loader.batches
    loader.labels[last[0]] = 2
    loader.set_epoch(0)
    with pytest.raises(DataError, match="2"):
        fit(bnn, loader, epochs=1, settings=Settings(schedule=REST))


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_a_network_that_a_later_one_has_taken_over_is_refused(slab: str) -> None:
    """Its gates would take their values from the other."""
    net = units()
    prior = FlatteningPrior(1e-3)
    first, later = (BayesianNet(net, num_data=EXAMPLES, prior=prior, slab=slab) for _ in range(2))
    loader = Batches(*examples())
    for call in (lambda: fit(first, loader, epochs=1), lambda: first.predict(loader.x)):
        with pytest.raises(ConfigError, match="belongs to a later BayesianNet"):
            call()
    fit(later, loader, epochs=1)
    later.predict(loader.x)


def test_points_have_no_temperature_and_no_scale() -> None:
    net = BayesianNet(units(), num_data=EXAMPLES)
    with pytest.raises(ConfigError, match=r"temperature=0.5 is about the posterior.*weights='normal'"):
        fit(net, Batches(*examples()), epochs=1, settings=Settings(temperature=0.5))
    with pytest.raises(ConfigError, match="slab_scale is the scale of Normal weights"):
        BayesianNet(units(), num_data=EXAMPLES, slab_scale=1.0)
