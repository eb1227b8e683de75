"""Surgery during training: when, with what evidence, and without a trace in outputs, moments and prices."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.infer import BatchObjective, BayesianNet
from bayesprune.layers import Gate, Residual
from bayesprune.methods.svi.gates import GateUpdates
from bayesprune.methods.svi.removal import GateRemoval
from bayesprune.training import Budget, Settings, fit
from bayesprune.training.cuts import Cuts
from tests.training.problems import Batches, bayesian, branches, convolutional, examples, set_theta, stream, units


class Patient:
    """A network in double precision that has trained for some steps, with everything that follows it."""

    def __init__(self, build, patience: int = 1, steps: int = 3, optimizer=torch.optim.Adam, **options: object) -> None:
        torch.manual_seed(3)
        self.net: BayesianNet = bayesian(build(), **options).double()
        self.optimizer = optimizer(list(self.net.weights().values()), lr=0.05)
        self.updates = GateUpdates(self.net)
        self.cuts = Cuts(self.net, self.net.trained, torch.zeros(1, 8))
        self.cuts.optimizer = self.optimizer
        self.step = 0
        self.removal = GateRemoval(self.net, self, self.updates, patience, lambda off, _: off, torch.any)  # type: ignore[arg-type]
        x, self.y = examples(60)
        self.x = x.double() if build is not convolutional else x.double()[:, None]
        with torch.no_grad():
            self.net.theta.fill_(0.7)
            self.net.log_gamma.copy_(torch.arange(1.0, self.net.num_gates + 1))
        for _ in range(steps):
            self.train_step(self.net.sample_gates(self.x))
        self.updates.sampled.net_cost = torch.linspace(0.1, 1.0, self.net.num_gates, dtype=torch.float64)

    @property
    def origin(self) -> dict[str, Tensor]:
        return self.cuts.origin

    def remove(self, off: dict[str, Tensor], net_cost: Tensor, forced: Tensor | None) -> Tensor | None:
        return self.cuts.remove(self.step, off, net_cost, forced)

    def check(self, step: int) -> bool:
        self.step = step
        return self.removal.check()

    def train_step(self, xi: Tensor) -> None:
        self.optimizer.zero_grad()
        BatchObjective(self.net, self.x, self.y).losses(xi, skip=True).mean().backward()
        self.optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.net.net.state_dict().items()}


def off(patient: Patient, **thetas: list[float]) -> Patient:
    set_theta(patient.net, **thetas)
    return patient


PATIENTS = [
    pytest.param(units, {"g0": [0, 1, 0, 1, 1, 1, 1, 0.5], "g1": [0, 0, 0.5, 1, 1, 0]}, (6, 3), id="units"),
    pytest.param(branches, {"g2": [0.0], "g4": [0.0]}, (1, 1), id="branches"),
    pytest.param(convolutional, {"g3": [1, 0, 1, 0], "g5": [0, 0.5, 0, 1, 1]}, (2, 3), id="after normalisation"),
    pytest.param(stream, {"g0": [0, 1, 1, 0], "g2": [0.0]}, (2,), id="stream and branch"),
]


@pytest.mark.parametrize(("build", "thetas", "sizes"), PATIENTS)
def test_a_removal_in_training_changes_no_output(build, thetas: dict, sizes: tuple[int, ...]) -> None:
    """Gates off draw 0 for ever: outputs of the train pass with the other gates as they were, and of eval mode."""
    patient = off(Patient(build), **thetas)
    net = patient.net
    net.train()
    xi = net.sample_gates(patient.x)
    before_train = net(patient.x, xi, skip=True).detach()
    statistics = patient.weights()
    before_eval = net.eval()(patient.x).detach()
    net.net.load_state_dict(statistics)
    entries = net.by_gate(torch.arange(net.num_gates))
    assert patient.check(9)
    assert tuple(len(value) for value in net.gate_probs().values()) == sizes
    torch.testing.assert_close(net.eval()(patient.x), before_eval, rtol=0, atol=1e-12)
    kept = torch.cat([entries[name][patient.origin[name]] for name in net.gate_names])
    net.train()
    torch.testing.assert_close(net(patient.x, xi[:, kept], skip=True), before_train, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)])
@pytest.mark.parametrize(("build", "thetas", "sizes"), PATIENTS)
def test_one_step_commutes_with_removal(build, thetas: dict, sizes: tuple[int, ...], optimizer) -> None:
    """Step then remove ends where remove then step does: moments, step counts and rows follow the survivors."""
    first, second = (off(Patient(build, optimizer=optimizer), **thetas) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.weights().values(), second.weights().values(), strict=True))
    xi = first.net.sample_gates(first.x)
    parts = first.net.by_gate(torch.arange(first.net.num_gates))
    first.train_step(xi)
    assert first.check(1) and second.check(1)
    kept = torch.cat([parts[name][second.origin[name]] for name in second.net.gate_names])
    second.train_step(xi[:, kept])
    mine, theirs = first.weights(), second.weights()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-12, msg=name)
    with torch.no_grad():
        second_kept = second.net.sample_gates(second.x)
    first.train_step(second_kept)
    second.train_step(second_kept)
    for name, value in first.weights().items():
        torch.testing.assert_close(value, second.weights()[name], rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize(("build", "thetas", "sizes"), PATIENTS)
def test_prices_and_estimates_follow(build, thetas: dict, sizes: tuple[int, ...]) -> None:
    patient = off(Patient(build), **thetas)
    net = patient.net
    before = {"price": net.price, "net_cost": patient.updates.net_cost, "theta": net.theta.detach()}
    before = {key: net.by_gate(value.clone()) for key, value in before.items()}
    square = net.by_gate(patient.updates.sampled.square.clone())
    patient.check(1)
    now = {"price": net.price, "net_cost": patient.updates.net_cost, "theta": net.theta.detach()}
    for name, origin in patient.origin.items():
        for key, value in now.items():
            assert torch.equal(net.by_gate(value)[name], before[key][name][origin]), (name, key)
        assert torch.equal(net.by_gate(patient.updates.sampled.square)[name], square[name][origin])
    assert len(patient.removal.monitor.agreed) == net.num_gates == sum(sizes)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_removal_after_patience_consecutive_checks(patience: int) -> None:
    patient = off(Patient(units, patience), g1=[1, 0, 1, 1, 1, 1])
    said = [patient.check(step) for step in range(patience + 2)]
    assert said == [False] * (patience - 1) + [True] + [False] * 2
    assert [r.step for r in patient.cuts.removals] == [patience - 1]


@pytest.mark.parametrize("wanted_back", [{"net_cost": -0.1}, {"net_cost": 0.0}, {"theta": 1e-9}])
def test_no_removal_while_the_data_want_it_or_theta_is_not_0(wanted_back: dict[str, float]) -> None:
    patient = off(Patient(units, 2), g1=[1, 0, 1, 1, 1, 1])
    assert not patient.check(0)
    net_cost = patient.updates.net_cost.clone()
    set_theta(patient.net, g1=[1, wanted_back.get("theta", 0.0), 1, 1, 1, 1])
    patient.updates.net_cost[9] = wanted_back.get("net_cost", 1.0)
    assert not patient.check(1)
    patient.updates.sampled.net_cost = net_cost
    set_theta(patient.net, g1=[1, 0, 1, 1, 1, 1])
    assert not patient.check(2)
    assert patient.check(3)


def test_evidence_and_original_indices_over_several_removals() -> None:
    patient = Patient(units)
    net, cuts = patient.net, patient.cuts
    weight = net.net[1].weight.detach().clone()
    net_costs = patient.updates.net_cost.clone()
    set_theta(net, g0=[1, 0, 1, 1, 0, 1, 1, 1], g1=[1, 1, 0, 1, 1, 1])
    assert patient.check(10)
    set_theta(net, g0=[1, 1, 0, 1, 1, 1], g1=[0, 1, 1, 1, 0])
    assert patient.check(20)
    found = [(r.step, r.gate, r.index) for r in cuts.removals]
    assert found == [(10, "0", 1), (10, "0", 4), (10, "1", 2), (20, "0", 3), (20, "1", 0), (20, "1", 5)]
    left = [0, 2, 3, 5, 6, 7]
    norms = {(10, 2): weight[2].norm(), (20, 0): weight[0, left].norm(), (20, 5): weight[5, left].norm()}
    for removal in cuts.removals:
        assert removal.theta == 0.0
        assert removal.net_cost == pytest.approx(float(net_costs[removal.index + (8 if removal.gate == "1" else 0)]))
        expected = 0.0 if removal.gate == "0" else float(norms[removal.step, removal.index])
        assert removal.weight_norm == pytest.approx(expected, rel=1e-12)
    assert cuts.origin["0"].tolist() == [0, 2, 5, 6, 7] and cuts.origin["1"].tolist() == [1, 3, 4]


@pytest.mark.parametrize("method", ["svi", "taylor"])
def test_the_norm_of_what_a_gate_of_its_own_gates_is_that_of_the_layer_before(method: str) -> None:
    """Behind an activation, as `bp.convert` puts gates; nothing is learnt."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), Gate(6), nn.Linear(6, 2))
    norms = net[0].weight.detach().norm(dim=1)
    settings = Settings(lr=1e-30, budget=Budget("macs", 0.5) if method == "svi" else None)
    model = bayesian(net) if method == "svi" else net
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ structures had to be switched off")
        history = fit(model, Batches(*examples()), epochs=4, method=method, settings=settings)
    assert len(history.removals) >= 3
    for removal in history.removals:
        assert removal.weight_norm == pytest.approx(float(norms[removal.index]), rel=1e-5)


def test_the_norm_of_a_branch_is_that_of_all_its_parameters() -> None:
    patient = off(Patient(branches), g3=[0.0])
    body = patient.net.net[3].body[0]
    expected = float((body.weight.square().sum() + body.bias.square().sum()).sqrt().detach())
    assert patient.check(4)
    (removal,) = patient.cuts.removals
    assert (removal.gate, removal.index) == ("3", 0)
    assert removal.weight_norm == pytest.approx(expected)


def test_structures_that_go_with_others_are_logged_with_their_own_theta() -> None:
    """Units within a branch that goes: they were wanted, but nothing is left to read them."""

    def build() -> nn.Module:
        body = nn.Sequential(layers.Linear(8, 2, gate="unit"), nn.ReLU(), nn.Linear(2, 8))
        return nn.Sequential(Residual(body), nn.Linear(8, 2))

    patient = off(Patient(build), g0=[0.0], g0__body__0=[1.0, 0.5])
    assert patient.check(2)
    found = {(r.gate, r.index): r.theta for r in patient.cuts.removals}
    assert found == {("0", 0): 0.0, ("0.body.0", 0): 1.0, ("0.body.0", 1): 0.5}
    assert patient.net.num_gates == 0 and patient.origin == {}


def test_the_last_structure_of_a_layer_without_a_by_pass_is_kept() -> None:
    """The one that the data want most, with θ = 1, and a warning that says which."""
    patient = off(Patient(units), g1=[0.0] * 6)
    patient.updates.net_cost[8:] = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.3, 0.4])
    with pytest.warns(UserWarning, match=r"every structure of '1' .* \(index 3\) is kept, because .* no by-pass"):
        assert patient.check(0)
    assert patient.origin["1"].tolist() == [3]
    assert patient.net.gate_probs()["1"].tolist() == [1.0]
    assert [r.index for r in patient.cuts.removals] == [0, 1, 2, 4, 5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not patient.check(1)


def test_a_single_structure_is_kept_too() -> None:
    patient = Patient(units)
    set_theta(patient.net, g1=[0.5, 0, 0, 0, 0, 0])
    assert patient.check(0)
    set_theta(patient.net, g1=[0.0])
    before = patient.net.net
    with pytest.warns(UserWarning, match=r"'1' .* \(index 0\) is kept"):
        assert not patient.check(1)
    assert patient.net.net is before and patient.net.gate_probs()["1"].tolist() == [1.0]


def test_all_branches_may_go() -> None:
    patient = off(Patient(branches), g1=[0.0], g2=[0.0], g3=[0.0], g4=[0.0])
    before = patient.net.eval()(patient.x).detach()
    assert patient.check(0)
    assert patient.net.num_gates == 0 and patient.net.gate_probs() == {}
    torch.testing.assert_close(patient.net(patient.x), before, rtol=0, atol=1e-12)
    assert not patient.check(1)
    patient.net.train()
    patient.train_step(patient.net.sample_gates(patient.x))


def test_a_unit_that_feeds_a_stream_waits_for_the_branch_without_shrinking_again_and_again() -> None:
    patient = off(Patient(stream, patience=2), g0=[0, 1, 1, 0])
    before = patient.net.net
    assert not any(patient.check(step) for step in range(7))
    assert patient.net.net is before and patient.cuts.removals == []
    assert patient.net.gate_probs()["0"].tolist() == [0.0, 1.0, 1.0, 0.0]
    set_theta(patient.net, g2=[0.0])
    said = [patient.check(step) for step in range(7, 12)]
    assert said.count(True) <= 2 and patient.origin.keys() == {"0"}
    assert patient.origin["0"].tolist() == [1, 2]
    assert {(r.gate, r.index) for r in patient.cuts.removals} == {("0", 0), ("0", 3), ("2", 0)}


def test_a_cut_takes_up_the_structure_of_another_run_without_a_log() -> None:
    patient, other = Patient(units), Patient(units)
    for thetas in ({"g1": [1, 0, 1, 1, 0, 1]}, {"g0": [0, 1, 1, 1, 1, 1, 0, 1], "g1": [1, 1, 0, 1]}):
        set_theta(patient.net, **thetas)
        assert patient.check(0)
    before = other.net.net
    cut = other.cuts.cut_to(patient.origin)
    assert cut is not None and other.net.net is before
    other.cuts.follow(*cut)
    shapes = [p.shape for p in other.net.net.parameters()]
    assert shapes == [p.shape for p in patient.net.net.parameters()]
    assert other.cuts.removals == []
    for name, origin in patient.origin.items():
        assert torch.equal(origin, other.origin[name])
    untouched = Patient(units)
    assert untouched.cuts.cut_to(copy.deepcopy(untouched.origin)) is None


def test_counts_of_agreement_follow_the_survivors() -> None:
    """A gate that had one look of two before another was removed goes at its own second look."""
    patient = off(Patient(units, 2), g1=[1, 0, 1, 1, 1, 1])
    assert not patient.check(0)
    set_theta(patient.net, g0=[1, 1, 1, 1, 1, 1, 0, 1], g1=[1, 0, 1, 1, 0, 1])
    assert patient.check(1) and patient.check(2)
    assert [(r.step, r.gate, r.index) for r in patient.cuts.removals] == [(1, "1", 1), (2, "0", 6), (2, "1", 4)]
