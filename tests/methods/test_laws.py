"""The laws that every method keeps: of phases, of what is counted, and of targets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bayesprune.errors import GateError
from bayesprune.infer import BayesianNet
from bayesprune.layers import gates_of
from bayesprune.methods import NAMES, get_method
from bayesprune.methods.magnitude import Magnitude
from bayesprune.pruning import compact, cost
from bayesprune.training import Budget, EpochRow, Settings, fit
from bayesprune.training.records import Records
from bayesprune.training.trainer import Trainer
from tests.methods.toys import (
    EPOCHS,
    QUICK,
    TOYS,
    Rewinding,
    Smallest,
    batches,
    dropping,
    each,
    made,
)
from tests.training.problems import EXAMPLES, Batches, bayesian, convolutional, examples, units


@pytest.mark.parametrize("start", ["initial", "fresh", "current"])
def test_5_a_phase_starts_with_the_weights_and_the_optimiser_that_it_asks_for(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = dropping()
    initial = {key: value.clone() for key, value in net.state_dict().items()}
    begin, seen = Trainer._begin_phase, []

    def spied(run: Trainer) -> None:
        before = {key: value.clone() for key, value in net.state_dict().items()}
        begin(run)
        if run.epoch == 2:
            after = {key: value.clone() for key, value in net.state_dict().items()}
            seen.append((before, after, dict(run.masks), len(run.optimizer.state), run.progress))

    monkeypatch.setattr(Trainer, "_begin_phase", spied)
    history = fit(net, batches(), epochs=4, method=Rewinding(start), settings=Settings(lr=0.02))
    ((before, after, masks, states, progress),) = seen
    assert (states, progress) == (0, 0.5) and [row.phase for row in history.rows] == ["mask"] * 2 + ["again"] * 2
    for key, value in after.items():
        expected = {"initial": initial, "current": before}.get(start, {}).get(key)
        if expected is not None:
            assert torch.equal(value, expected * masks[key] if key in masks else expected), key
    assert set(masks) == {"0.weight", "4.weight"}
    if start == "fresh":
        free = masks["0.weight"]
        assert not torch.equal(after["0.weight"], initial["0.weight"] * free)
        assert not torch.equal(after["0.weight"], before["0.weight"])
        assert bool((after["0.weight"][~free] == 0).all()) and float(after["1.running_mean"].abs().max()) == 0


@pytest.mark.parametrize("name", each(*NAMES, "smallest", "ridge"))
def test_6_computing_is_charged_by_the_network_as_it_is_then(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training example three passes, one that was looked at another, and what solvers took."""
    model, how = made(name)
    start, looked, charge = cost(model, examples()[0]).macs, [], Records.charge
    solved, charge_open = [], Records.charge_open

    def spied(records: Records, count: int) -> None:
        looked.append(count * records.cost().macs)
        charge(records, count)

    def spied_open(records: Records, more: float = 0.0) -> None:
        solved.append(more)
        charge_open(records, more)

    monkeypatch.setattr(Records, "charge", spied)
    monkeypatch.setattr(Records, "charge_open", spied_open)
    history = fit(model, batches(), epochs=EPOCHS, val_loader=batches(), prune=name != "svi", **how)
    begun = history.rows[0].macs if name == "factorised" else start  # other layers from the first step on
    macs = [begun, *(row.macs for row in history.rows[:-1])]
    assert history.charged == sum(3 * EXAMPLES * m for m in macs) + sum(looked) + sum(solved)
    assert (sum(solved) > 0) == (name in ("factorised", "layerwise_l0", "net_trim"))
    asks = {"ridge": [EXAMPLES * start] * EPOCHS, "magnitude": [], "none": [], "svi": [], "smallest": []}
    assert looked == asks.get(name, looked)
    does = {"smallest": True, "magnitude": True, "none": False, "svi": False, "ridge": False}
    assert start == 8 * 6 + 6 * 2 and (macs[-1] < start) == does.get(name, macs[-1] < start)


@pytest.mark.parametrize("name", each(*NAMES, "ridge"))
def test_7_the_loss_is_a_mean_and_what_is_known_beforehand_weighs_as_one_data_set(name: str) -> None:
    """Nothing learns: the loss is the same for batches of any size, and its penalty halves as the data double."""

    def rows(size: int, copies: int) -> EpochRow:
        torch.manual_seed(8)
        if name == "slimming":
            pytest.skip("its penalty has no value, only a slope, and statistics of batches differ with their size")
        rest = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0}
        net = units()
        for gate in gates_of(net).values():
            nn.init.constant_(gate.theta, 1.0)
        loader = batches(size, copies)
        if name == "svi":
            bnn = bayesian(net, 2.0, num_data=EXAMPLES * copies)
            return fit(bnn, loader, epochs=1, settings=Settings(lr=1e-12, schedule=rest)).rows[0]
        method = TOYS[name]() if name in TOYS else get_method(name, **harmless.get(name, {}))
        how = Settings(lr=1e-12)
        return fit(net, loader, epochs=3, method=method, settings=how, val_loader=loader).rows[0]

    harmless: dict[str, dict[str, float]] = {
        **{name: {"sparsity": 1e-9} for name in ("magnitude", "iss", "movement")},
        **{name: {"alpha": 1e-9} for name in ("targeted_dropout", "targeted_units")},
        "dropout_norms": {"units": 1e-9}, "spectral_dropout": {"p": 0.0}, "sparse_vd": {"start": -40.0},
    }  # fmt: skip

    one, other, doubled = rows(40, 1), rows(96, 1), rows(40, 2)
    draws = name == "l0"  # whatever it is told
    assert draws or other.nll == pytest.approx(one.nll, rel=1e-5)
    assert other.loss - other.nll == pytest.approx(one.loss - one.nll, rel=1e-3, abs=1e-6)
    per_example = name in ("dropneuron", "group_lasso")  # their papers weigh penalties against the mean loss
    share = 1 if per_example else 2
    assert doubled.loss - doubled.nll == pytest.approx((one.loss - one.nll) / share, rel=1e-3, abs=1e-9)
    assert (one.loss > one.nll) == (name in ("svi", "ridge", "l0", "sparse_vd") or per_example)


@pytest.mark.parametrize("make", [units, dropping, convolutional])
def test_8_no_layer_empties(make: Callable[[], nn.Module]) -> None:
    x, y = examples()
    torch.manual_seed(0)
    net = make()
    how = {"method": Magnitude(0.999), "settings": Settings(lr=0.02)}
    fit(net, Batches(x[:, None] if make is convolutional else x, y), epochs=3, **how)
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv1d))]
    assert all(bool((layer.weight != 0).any()) for layer in layers) or gates_of(net)
    assert all(layer.weight.numel() > 0 for layer in layers)


@pytest.mark.filterwarnings("ignore:every structure")
def test_8_no_layer_empties_by_inference() -> None:
    net = bayesian(units(), 5000.0)
    fit(net, batches(), epochs=3, settings=Settings(schedule=QUICK))
    assert all(len(theta) >= 1 for theta in net.gate_probs().values()) and len(net.gate_probs()) == 2


def test_8_a_method_that_empties_a_layer_is_refused() -> None:
    torch.manual_seed(0)
    net = units()
    with pytest.raises(GateError):
        fit(net, batches(), epochs=3, method=Smallest(everything=True), settings=Settings())
    assert [gate.size for gate in gates_of(net).values()] == [8, 6]
    assert all(bool((gate.theta == 0.9).all()) for gate in gates_of(net).values())  # as the epoch found it


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_9_the_target_is_hit_by_magnitude(sparsity: float) -> None:
    torch.manual_seed(0)
    net = dropping()
    fit(net, batches(), epochs=4, method=Magnitude(sparsity), settings=Settings(lr=0.02))
    weights = torch.cat([net[0].weight.flatten(), net[4].weight.flatten()])
    assert float((weights == 0).float().mean()) == pytest.approx(sparsity, abs=0.01)


@pytest.mark.filterwarnings("ignore:.*had to be switched off")
def test_9_the_target_is_hit_by_inference() -> None:
    torch.manual_seed(1)
    net = BayesianNet(units(), num_data=EXAMPLES)
    start = cost(net, examples()[0]).macs
    fit(net, batches(), epochs=6, settings=Settings(lr=0.02, budget=Budget("macs", 0.6), schedule=QUICK))
    assert cost(compact(net), examples()[0]).macs <= 0.6 * start
