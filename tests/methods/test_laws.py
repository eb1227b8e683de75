"""The laws that every method keeps, and toy methods for what no method of the package asks of the loop yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.errors import CheckpointError, ConfigError, GateError
from bayesprune.infer import BayesianNet
from bayesprune.layers import gates_of
from bayesprune.methods import NAMES, Decision, Method, Needs, Phase, Run, Site, get_method
from bayesprune.methods.magnitude import Magnitude
from bayesprune.methods.none import Plain
from bayesprune.methods.svi.method import SVI
from bayesprune.optim.rates import learning_rate, warmup_steps
from bayesprune.pruning import compact, cost
from bayesprune.training import Budget, EpochRow, History, Settings, fit
from bayesprune.training.trainer import Trainer
from tests.training.problems import EXAMPLES, Batches, bayesian, branches, convolutional, examples, stream, units

QUICK = {"sample_from": 0.05, "settle_from": 0.4, "fine_tune_from": 0.75, "travel": 5.0, "checks_per_epoch": 3}
EPOCHS = 4


# toy methods ----------------------------------------------------------------------------------------------------------


class Rewinding(Method):
    """Masks some weights at random after every epoch, and trains what is left from the initial weights."""

    name = "rewinding"

    def __init__(self, start: str = "initial"):
        super().__init__()
        self.start = start
        self.register_buffer("decisions", torch.zeros(1))

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("mask", decide_every=1), Phase("again", start=self.start, lr=0.5)))  # type: ignore[arg-type]

    def decide(self, run: Run) -> Decision:
        self.decisions += 1
        masks = {
            site.name: torch.rand(site.weight.shape, generator=run.generator) < 0.8
            for site in run.sites
            if site.kind == "weight"
        }
        return Decision(masks=masks if run.phase.name == "mask" else {})


class Smallest(Method):
    """Switches off one unit of each layer after every epoch, or all of them."""

    name = "smallest"

    def __init__(self, everything: bool = False):
        super().__init__()
        self.everything = everything

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("prune", decide_every=1),))

    def decide(self, run: Run) -> Decision:
        if run.epoch > 2:
            return Decision()
        off = {}
        for name, gate in gates_of(run.net.net).items():
            off[name] = torch.full((gate.size,), self.everything)
            off[name][run.epoch - 1] = True
        return Decision(off=off)


class Viewed(Method):
    """Computes with the half of each weight that is largest, and half of each output; a parameter of its own learns."""

    name = "viewed"

    def setup(self, run: Run) -> Needs:
        self.scale = nn.Parameter(torch.ones(()))
        return Needs(views=frozenset({"weight", "output"}))

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        if site.kind == "output":
            return value / 2
        return value * (value.abs() >= value.abs().median()) * self.scale


class Ridge(Method):
    """Weights are Normal(0, 1) beforehand; what validation says is heard after every epoch."""

    name = "ridge"

    def setup(self, run: Run) -> Needs:
        self.scores: list[float] = []
        return Needs((Phase("train", decide_every=1),))

    def loss(self, run: Run) -> Tensor:
        squares = [site.weight.square().sum() for site in run.sites if site.kind == "weight"]
        return torch.stack(squares).sum() / (2 * run.net.num_data)

    def decide(self, run: Run) -> Decision:
        self.scores.append(run.validate().nll)
        return Decision(note={"nu": self.scores[-1]})


TOYS: dict[str, Callable[[], Method]] = {
    "rewinding": Rewinding, "fresh": lambda: Rewinding("fresh"), "smallest": Smallest, "viewed": Viewed, "ridge": Ridge,
}  # fmt: skip


def batches(size: int = 40, copies: int = 1) -> Batches:
    x, y = examples()
    return Batches(x.repeat(copies, 1), y.repeat(copies), size)


def made(name: str, make: Callable[[], nn.Module] = units, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A model that a method trains, and the arguments of `fit` that say how."""
    torch.manual_seed(8)
    if name == "svi":
        return bayesian(make(), 2.0), {"settings": Settings(lr=0.02, every=1, schedule=QUICK)}
    method = TOYS[name]() if name in TOYS else get_method(name, **options)
    return make(), {"method": method, "settings": Settings(lr=0.02)}


def network(model: nn.Module) -> nn.Module:
    return model.net if isinstance(model, BayesianNet) else model


def train(name: str, make: Callable[[], nn.Module] = units, **more: Any) -> tuple[nn.Module, History]:
    model, how = made(name, make)
    return model, fit(model, **{"train_loader": batches(), "epochs": EPOCHS, "val_loader": batches(), **how, **more})


# the laws -------------------------------------------------------------------------------------------------------------


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def test_1_doing_nothing_is_a_loop_of_plain_pytorch_to_the_bit() -> None:
    torch.manual_seed(3)
    net = dropping()
    torch.manual_seed(4)
    history = fit(net, batches(), epochs=3, method="none", settings=Settings(lr=0.02))
    torch.manual_seed(3)
    mine, loader = dropping(), batches()
    torch.manual_seed(4)
    optimizer = torch.optim.Adam(mine.parameters(), lr=0.02, fused=True)
    steps, step, losses = 3 * len(loader), 0, []
    for epoch in range(3):
        loader.set_epoch(epoch)
        total = torch.zeros(())
        for x, y in loader:
            optimizer.param_groups[0]["lr"] = 0.02 * learning_rate(step, steps, warmup_steps(steps))
            loss = F.cross_entropy(mine(x), y, reduction="none").mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(y)
            step += 1
        losses.append(float(total) / EXAMPLES)
    assert [row.nll for row in history.rows] == losses
    for value, expected in zip(net.state_dict().values(), mine.state_dict().values(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, "momentum"])
@pytest.mark.parametrize("name", [*NAMES, "rewinding"])
def test_2_masked_entries_are_0_in_weight_gradient_and_moments(
    name: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if optimizer == "momentum":

        def optimizer(p: Any, lr: float, weight_decay: float = 1e-3) -> torch.optim.Optimizer:
            return torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=weight_decay)

    masked = 0
    step = Trainer.train_step

    def checked(run: Trainer, *args: Any) -> Tensor:
        nonlocal masked
        loss = step(run, *args)
        trained = run.trained()
        for key, mask in run.masks.items():
            weight, gone = trained[key], ~mask
            masked += int(gone.sum())
            moments = [v for v in run.optimizer.state[weight].values() if isinstance(v, Tensor) and v.dim()]
            assert all(bool((value[gone] == 0).all()) for value in (weight, weight.grad, *moments))
        return loss

    monkeypatch.setattr(Trainer, "train_step", checked)
    model, how = made(name)
    fit(model, batches(), epochs=EPOCHS, **{**how, "settings": replace(how["settings"], optimizer=optimizer)})
    assert (masked > 0) == (name in ("magnitude", "rewinding"))


@pytest.mark.parametrize("make", [units, branches, stream, convolutional])
@pytest.mark.parametrize("name", [*NAMES, "smallest", "rewinding"])
def test_3_what_is_off_can_be_cut(name: str, make: Callable[[], nn.Module]) -> None:
    x, y = examples()
    x = x[:, None] if make is convolutional else x
    if name == "smallest" and make is branches:
        pytest.skip("a branch has one gate")
    if name == "smallest" and make is stream:
        pytest.skip("its branch has one gate")
    model, _ = train(name, make, train_loader=Batches(x, y), val_loader=None)
    model.eval()
    small = compact(model)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    if name == "smallest":
        assert [gate.size for gate in gates_of(model).values()] == ([6, 4] if make is units else [2, 3])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", [*NAMES, *TOYS])
def test_4_a_run_that_is_taken_up_ends_as_the_unbroken_one(name: str, tmp_path: Path) -> None:
    """Broken off after every epoch; weights, masks, random numbers, phases and records included."""
    whole, expected = train(name, dropped_units, out=tmp_path / "whole")

    def stop(row: EpochRow) -> None:
        raise Stopped

    for _ in range(EPOCHS):
        with pytest.raises(Stopped):
            train(name, dropped_units, out=tmp_path / "broken", on_epoch=stop)
        torch.rand(7)  # another process is at another place of its random numbers
    model, found = train(name, dropped_units, out=tmp_path / "broken")
    assert [str(replace(row, seconds=0.0)) for row in found.rows] == [
        str(replace(row, seconds=0.0)) for row in expected.rows
    ]
    assert str(found.removals) == str(expected.removals) and found.charged == expected.charged
    mine, theirs = network(model).state_dict(), network(whole).state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def dropped_units() -> nn.Module:
    net = units()
    return nn.Sequential(*net[:3], nn.Dropout(0.1), net[3])


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


@pytest.mark.parametrize("name", [*NAMES, "smallest", "ridge"])
def test_6_computing_is_charged_by_the_network_as_it_is_then(name: str) -> None:
    model, how = made(name)
    start = cost(model, examples()[0]).macs
    history = fit(model, batches(), epochs=EPOCHS, val_loader=batches(), prune=name != "svi", **how)
    macs = [start, *(row.macs for row in history.rows[:-1])]
    assert history.charged == sum(3 * EXAMPLES * m for m in macs) + (
        EPOCHS * EXAMPLES * start if name == "ridge" else 0
    )
    assert start == 8 * 6 + 6 * 2 and (macs[-1] < start) == (name in ("smallest", "magnitude"))


@pytest.mark.parametrize("name", [*NAMES, "ridge"])
def test_7_the_loss_is_a_mean_and_what_is_known_beforehand_weighs_as_one_data_set(name: str) -> None:
    """Nothing learns: the loss is the same for batches of any size, and its penalty halves as the data double."""

    def rows(size: int, copies: int) -> EpochRow:
        torch.manual_seed(8)
        rest = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0}
        net = units()
        for gate in gates_of(net).values():
            nn.init.constant_(gate.theta, 1.0)
        loader = batches(size, copies)
        if name == "svi":
            bnn = bayesian(net, 2.0, num_data=EXAMPLES * copies)
            return fit(bnn, loader, epochs=1, settings=Settings(lr=1e-12, schedule=rest)).rows[0]
        method = TOYS[name]() if name in TOYS else Magnitude(1e-9) if name == "magnitude" else get_method(name)
        how = Settings(lr=1e-12)
        return fit(net, loader, epochs=1, method=method, settings=how, val_loader=loader).rows[0]

    one, other, doubled = rows(40, 1), rows(96, 1), rows(40, 2)
    assert other.nll == pytest.approx(one.nll, rel=1e-5) and other.loss == pytest.approx(one.loss, rel=1e-5)
    assert doubled.loss - doubled.nll == pytest.approx((one.loss - one.nll) / 2, rel=1e-4, abs=1e-9)
    assert (one.loss > one.nll) == (name in ("svi", "ridge"))


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


# hooks ----------------------------------------------------------------------------------------------------------------


def test_views_are_baked_in_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    order = [name for name, _ in net.named_parameters()]
    method = Viewed()
    history = fit(net, batches(), epochs=3, method=method, settings=Settings(lr=0.02), val_loader=batches())
    assert [name for name, _ in net.named_parameters()] == order
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not any("weight" in vars(module) for module in net.modules())
    for layer in (net[0], net[2]):
        assert int((layer.weight == 0).sum()) == (layer.weight.numel() - 1) // 2
    x, y = examples()
    nll = float(F.cross_entropy(net.eval()(x), y).detach())
    assert nll == pytest.approx(history.rows[-1].val_nll, rel=1e-5)  # in eval mode the run computed with them too
    assert float(method.scale.detach()) != 1.0


def test_views_of_outputs() -> None:
    torch.manual_seed(0)
    net = units()
    x = examples()[0]
    expected, seen = network(net)[0](x) / 2, []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output), prepend=False)

    class Halved(Method):
        name = "halved"

        def setup(self, run: Run) -> Needs:
            return Needs(views=frozenset({"output"}))

        def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
            seen.append((site.name, value))
            return value / 2

    fit(net, batches(), epochs=1, method=Halved(), settings=Settings(lr=1e-12))
    assert {entry[0] for entry in seen if isinstance(entry, tuple)} == {"0", "1"}
    seen.clear()
    torch.testing.assert_close(net[0](x), 2 * expected)  # taken away again


def test_undeclared_views_are_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "view", lambda *_: pytest.fail("called"))
    for name in NAMES:
        train(name, epochs=1, **({"settings": Settings(lr=0.02)} if name == "svi" else {}))


def test_masks_are_lifted() -> None:
    """Dense, sparse, dense: weights go on from 0, and are free again."""

    class DenseSparseDense(Method):
        name = "dsd"

        def setup(self, run: Run) -> Needs:
            return Needs((Phase("dense"), Phase("sparse"), Phase("dense again", lr=0.1)))

        def decide(self, run: Run) -> Decision:
            if run.phase.name == "dense":
                return Decision(masks={"0.weight": run.sites[0].weight.detach().abs() > 0.1})
            held.append((run.sites[0].weight == 0).sum())
            return Decision(lift=True)

    held: list[Tensor] = []
    torch.manual_seed(0)
    net = dropping()
    fit(net, batches(), epochs=3, method=DenseSparseDense(), settings=Settings(lr=0.02))
    assert int(held[0]) > 20 and int((net[0].weight == 0).sum()) == 0


def test_rows_that_masks_leave_nothing_of_are_cut_where_they_have_gates() -> None:
    class Row(Method):
        name = "row"

        def decide(self, run: Run) -> Decision:
            mask = torch.ones(6, 8, dtype=torch.bool)
            mask[[1, 4]] = False
            return Decision(masks={"1.weight": mask})

    torch.manual_seed(0)
    net = units()
    history = fit(net, batches(), epochs=1, method=Row(), settings=Settings())
    assert [(r.gate, r.index) for r in history.removals] == [("1", 1), ("1", 4)]
    assert net[1].weight.shape == (4, 8) and history.rows[0].macs == 4 * 8 + 4 * 2


# what fit refuses -----------------------------------------------------------------------------------------------------


def test_combinations_that_make_no_sense() -> None:
    loader, bnn = batches(), bayesian(units())
    for call, says in (
        (lambda: fit(units(), loader, epochs=1), r"expected a BayesianNet, got a Sequential; wrap it"),
        (lambda: fit(units(), loader, epochs=1, method="svi"), r"method='none'"),
        (lambda: fit(bnn, loader, epochs=1, method="none"), "trains a network without a posterior, got a BayesianNet"),
        (lambda: fit(bnn, loader, epochs=1, likelihood="gaussian"), "has a likelihood of its own"),
        (lambda: fit(units(), loader, epochs=1, method="nonsense"), "unknown method 'nonsense'; known are magnitude"),
        (lambda: fit(units(), loader, epochs=1, method="none", settings=Settings(every=2)), "Settings.every is about"),
        (lambda: fit(units(), loader, epochs=1, method=Rewinding()), "1 epochs are too few for the phases mask, again"),
        (lambda: fit(units(), loader, epochs=1, method=Ridge()), "method 'ridge' needs a val_loader"),
        (lambda: Magnitude(1.0), "sparsity must be"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    train("magnitude", out=tmp_path)
    model, how = made("magnitude", sparsity=0.5)
    with pytest.raises(CheckpointError, match="its settings is"):
        fit(model, batches(), epochs=EPOCHS, out=tmp_path, **how)
    model, how = made("none")
    with pytest.raises(CheckpointError, match="its method is 'magnitude', here it is 'none'"):
        fit(model, batches(), epochs=EPOCHS, out=tmp_path, **how)


def test_names_are_those_of_the_files() -> None:
    assert NAMES == ("magnitude", "none", "svi")
    assert [type(get_method(name)) for name in NAMES] == [Magnitude, Plain, SVI]


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.25, 0.7), (0.5, 0.8), (1.0, 0.8)])
def test_the_share_of_magnitude_by_hand(progress: float, share: float) -> None:
    """0.8 (1 − (1 − ½)³) = 0.7 at half of the way to the middle of the run."""
    assert Magnitude(0.8, until=0.5).share(progress) == pytest.approx(share)
