"""`fit` with Normal weights: resumed to the bit, what its steps do, what it leaves behind."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError
from bayesprune.infer import BatchObjective, BayesianNet, LearnedGaussian, Likelihood
from bayesprune.layers import Residual
from bayesprune.methods.protocol import Batch
from bayesprune.methods.svi.method import SVI
from bayesprune.methods.svi.normal_weights import divergence_due
from bayesprune.methods.svi.penalties import by_budget
from bayesprune.training import Budget, History, Settings, fit
from bayesprune.training.engine import Engine
from bayesprune.training.trainer import Trainer
from tests.training.normal_weights import regression, stream, targets
from tests.training.problems import EXAMPLES, REST, Batches, branches, examples, units
from tests.training.test_checkpoints import Stopped, stop_after

QUICK = {
    "sample_from": 0.05, "settle_from": 0.4, "fine_tune_from": 0.75, "travel": 1.5, "checks_per_epoch": 3,
    "slab_by": 0.2,
}  # fmt: skip


@pytest.mark.usefixtures("free_surgery")
@pytest.mark.parametrize(("scale", "every", "stops"), [(None, 1, (2, 4)), (0.5, 2, (3, 4))])
@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.2, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_the_unbroken_one(
    scale: float | None, every: int, stops: tuple[int, ...], temperature: float, tmp_path: Path
) -> None:
    """To the bit, structures having gone before a stop and after it: means, scales, noise scale, θ, optimiser."""
    how = Settings(lr=0.02, every=every, schedule=QUICK, temperature=temperature)

    def run(net: BayesianNet, folder: str, stop: int = 0) -> History:
        return fit(
            net, targets(), epochs=6, val_loader=targets(), settings=how, out=tmp_path / folder,
            on_epoch=stop_after(stop) if stop else None,
        )  # fmt: skip

    prior = FlatteningPrior(torch.tensor(2.0))
    whole = regression(prior, scale)
    expected = run(whole, "whole")
    for epoch in stops:
        with pytest.raises(Stopped):
            run(regression(prior, scale), "broken", epoch)
        torch.rand(epoch)  # another process is at another place of its random numbers
    net = regression(prior, scale)
    found = run(net, "broken")
    assert [replace(row, seconds=0.0) for row in found.rows] == [replace(row, seconds=0.0) for row in expected.rows]
    assert found.removals == expected.removals
    assert any(min(r.step for r in found.removals) <= 12 * e < max(r.step for r in found.removals) for e in stops)
    counted = float(net.likelihood.fitted_parameters)  # at 1 those that the mean field counts twice, so below 0
    assert counted < 0 if temperature == 1 else counted != 0
    mine, theirs = net.state_dict(), whole.state_dict()
    assert mine.keys() == theirs.keys() and any("log_scale" in key for key in mine)
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert torch.equal(net.price, whole.price)
    assert float(net.likelihood.noise_scale.detach()) != 1.0


def trainer(net: BayesianNet, loader: Batches, **settings: object) -> Trainer:
    how = Settings(**settings)  # type: ignore[arg-type]
    return Trainer(net, loader, 4, True, how, Engine(), SVI(how))


def test_log_scales_take_every_so_many_th_step() -> None:
    """In a run of 4,000 steps every second at which θ may; means take all, and the likelihood's noise scale too."""
    net = regression(FlatteningPrior(1e-3))
    run = trainer(net, targets(), every=2, schedule=REST)
    svi = run.method
    svi.schedule = dataclasses.replace(svi.schedule, epochs=4000, steps_per_epoch=1)
    net.train()
    x, y = next(iter(targets()))
    moved = []
    for step in range(9):
        run.step = step
        before = {key: p.detach().clone() for key, p in net.trained().items()}
        run.train_step(Batch(x, y, run.part(0, len(y))))
        changed = {key for key, p in net.trained().items() if not torch.equal(p, before[key])}
        moved.append(any("log_scale" in key and not key.startswith("likelihood") for key in changed))
        assert {"1.weight", "5.bias", "likelihood.log_scale"} <= changed
    assert moved == [step % 4 == 0 for step in range(9)]


def test_the_divergence_rises_to_its_temperature() -> None:
    net = regression(FlatteningPrior(1e-3), 0.5)
    whole = net.weights_cost.clone()
    run = trainer(net, targets(), schedule=REST | {"slab_by": 0.5}, temperature=0.4)
    steps = 4 * 12
    for step, share in ((0, 1 / (0.5 * steps)), (11, 0.5), (23, 1.0), (40, 1.0)):
        run.method.penalty.update(step)
        torch.testing.assert_close(net.weights_cost, 0.4 * share * whole)
        run.step, run.batch = step + 1, Batch(*next(iter(targets())), run.part(0, 40))
        net.refresh()
        run.method.stepped(run)
        if divergence_due(run.method.schedule, step):
            torch.testing.assert_close(net.weights_cost, 0.4 * share * whole)


def test_a_budget_weighs_the_divergence_of_weights_like_what_the_data_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """ν is sought, and structures are forced off, by the sum of both, nats per example."""
    seen: dict[str, Tensor] = {}

    def spied(name: str, function, place: int):
        def spy(*args):
            seen[name] = args[place].clone()
            return function(*args)

        return spy

    for name, place in (("dual_maximiser", 0), ("switch_off", 1)):
        monkeypatch.setattr(by_budget, name, spied(name, getattr(by_budget, name), place))
    torch.manual_seed(0)
    net = BayesianNet(stream(), "gaussian", num_data=EXAMPLES, slab="normal")
    run = trainer(net, targets(), budget=Budget("macs", 0.5), schedule=QUICK | {"slab_by": 1e-9})
    differences = -torch.linspace(0.0, 30.0, net.num_gates) / EXAMPLES
    run.method.penalty.update(30, differences)
    both = differences + net.weights_cost / EXAMPLES
    assert bool((both > 0).any()) and bool((both < 0).any()) and float(net.weights_cost.min()) > 0.5
    torch.testing.assert_close(seen["dual_maximiser"], both)
    with pytest.warns(UserWarning, match="had to be switched off"):
        assert run.method.penalty.enforce(differences).any()
    torch.testing.assert_close(seen["switch_off"], (-both).clamp(min=0))


class Laplace(Likelihood):
    """A scale of its own, without a prior."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(outputs, self.log_scale.exp()).to_event(1)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        return -self.distribution(outputs).log_prob(y)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_a_likelihood_may_have_parameters_and_no_prior(slab: str) -> None:
    """The scale, 1 at the start, goes to the mean absolute residual, which is some twenty."""
    torch.manual_seed(0)
    net = BayesianNet(stream(), Laplace(), num_data=EXAMPLES, prior=FlatteningPrior(1e-3), slab=slab)
    far = Batches(targets().x, 20 * targets().y)
    fit(net, far, epochs=3, settings=Settings(lr=0.02, schedule=REST, temperature=0.5 if slab == "normal" else 1.0))
    assert float(net.likelihood.log_scale.detach()) > 0.25


class Sequences(Batches):
    """Batches of sequences that are of one length each."""

    def __iter__(self):
        for number, (x, y) in enumerate(super().__iter__()):
            yield x[:, None, : 8 - number % 2], y


def test_examples_need_not_all_have_one_shape() -> None:
    """Those that are like the first tell how many parameters the fit has taken."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layers.Conv1d(1, 6, 3, gate="unit"), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 1)
    )
    bnn = BayesianNet(net, LearnedGaussian(), num_data=EXAMPLES, prior=FlatteningPrior(1e-3), slab="normal")
    whole = targets()
    fit(bnn, Sequences(whole.x, whole.y), epochs=3, settings=Settings(schedule=REST, temperature=0.5))
    assert float(bnn.likelihood.fitted_parameters) != 0
    fit(bnn, Sequences(whole.x, whole.y), epochs=1, settings=Settings(schedule=REST))
    assert float(bnn.likelihood.fitted_parameters) == 0, "at temperature 1 nothing is left out, whatever was before"


class Torn(Batches):
    def __iter__(self):
        yield from list(super().__iter__())[:3]
        raise Stopped


def test_nothing_that_was_handed_out_stays_behind() -> None:
    """After a run, and after one that was torn: passes follow log σ again, with gradients."""
    net = regression(FlatteningPrior(1e-3))
    fit(net, targets(), epochs=1, settings=Settings(schedule=REST))
    other = regression(FlatteningPrior(1e-3))
    whole = targets()
    with pytest.raises(Stopped):
        fit(other, Torn(whole.x, whole.y), epochs=1, settings=Settings(schedule=REST))
    for bnn in (net, other):
        assert all(layer.handed is None for layer in bnn.weights_posterior.layers.values())
        BatchObjective(bnn, whole.x, whole.y)(torch.ones(1, bnn.num_gates), skip=True).mean().backward()
        assert all(p.grad is not None for p in bnn.weights_posterior.log_scales())


def test_the_loss_of_a_row_is_the_negative_elbo_but_for_constants() -> None:
    """Mean data term of the epoch, prices, entropies, the divergence and the noise scale's prior, over N."""
    net = regression(FixedInclusion(0.3), 0.5)
    net.requires_grad_(False)
    history = fit(net, targets(), epochs=1, prune=False, settings=Settings(schedule=REST))
    theta = net.theta.detach()
    gates = FixedInclusion(0.3).penalty(theta).sum()
    rest = (gates + net.weights_posterior.divergence(net.by_gate(theta)) + net.likelihood.penalty()).detach() / EXAMPLES
    row = history.rows[0]
    assert row.loss - row.nll == pytest.approx(float(rest), rel=1e-4)


def test_double_precision() -> None:
    torch.manual_seed(1)
    net = BayesianNet(units(), num_data=EXAMPLES, prior=FlatteningPrior(2.0), slab="normal").double()
    x, y = examples()
    history = fit(net, Batches(x.double(), y), epochs=6, settings=Settings(lr=0.02, every=1))
    assert {p.dtype for p in net.net.parameters()} == {torch.float64}
    assert history.rows[-1].nll < 0.8 * history.rows[0].nll
    assert net.predict(x.double(), 3).mean.dtype == torch.float64


def test_bfloat16() -> None:
    """Products in bfloat16, weights and their scales in float32; it learns about as well."""
    rows = {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(1)
        net = BayesianNet(units(), num_data=EXAMPLES, prior=FlatteningPrior(1e-3), slab="normal")
        engine = Engine(precision=precision)
        history = fit(net, Batches(*examples()), epochs=4, settings=Settings(lr=0.02, every=1), engine=engine)
        assert {p.dtype for p in net.net.parameters()} == {torch.float32}
        rows[precision] = history.rows[-1].nll
    assert rows["bf16"] == pytest.approx(rows["float32"], abs=0.05)
    assert rows["bf16"] < 0.45


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_branches_with_noise_are_not_compiled(slab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would draw other numbers than the passes that are to repeat them."""
    monkeypatch.setattr("torch.compile", lambda body, **_: body)
    net = BayesianNet(branches(), num_data=9, slab=slab)
    Engine(compile=True).place(net)
    assert [block.run is None for block in net.net if isinstance(block, Residual)] == [slab == "normal"] * 4


def test_divided_weights_are_refused() -> None:
    engine = Engine()
    engine.divides = True
    before = copy.deepcopy(regression(FlatteningPrior(1.0)).state_dict())
    net = regression(FlatteningPrior(1.0))
    with pytest.raises(ConfigError, match="Normal weights cannot be divided among processes; take strategy 'auto'"):
        fit(net, targets(), epochs=1, engine=engine)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
