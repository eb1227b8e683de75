"""What a method decides besides masks: values, modules that rest, phases that end early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.methods import Decision, Method, Needs, Phase, Run
from bayesprune.optim.rates import learning_rate, warmup_steps
from bayesprune.training import Settings, fit
from bayesprune.training.checkpoint import read_checkpoint, write_checkpoint
from bayesprune.training.phases import Timetable
from bayesprune.training.trainer import Trainer
from tests.methods.toys import Freezing, Stopping, batches, dropping
from tests.training.problems import units


class Says(Method):
    """Decides once, after the first of its phases."""

    name = "says"

    def __init__(self, decision: Callable[[Run], Decision], phases: tuple[Phase, ...]):
        super().__init__()
        self.decision, self.phases = decision, phases

    def options(self) -> dict[str, object]:
        return {}

    def setup(self, run: Run) -> Needs:
        return Needs(self.phases)

    def decide(self, run: Run) -> Decision:
        return self.decision(run) if run.phase is self.phases[0] else Decision()


def run(decision: Callable[[Run], Decision], *phases: Phase, epochs: int = 2, lr: float = 0.02) -> nn.Module:
    torch.manual_seed(0)
    net = dropping()
    fit(net, batches(), epochs=epochs, method=Says(decision, phases or (Phase("train"),)), settings=Settings(lr=lr))
    return net


def test_values_are_assigned_under_the_masks_of_the_same_decision() -> None:
    values, mask = torch.randn(16, 8), torch.rand(16, 8) < 0.5
    net = run(lambda _: Decision(assign={"0.weight": values, "4.bias": torch.ones(2)}, masks={"0.weight": mask}))
    assert torch.equal(net[0].weight, values * mask) and torch.equal(net[4].bias, torch.ones(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [("1.running_mean", torch.zeros(16)), ("0.weight", torch.zeros(8, 16)), ("0.bias", torch.full((16,), torch.nan))],
)
def test_values_that_do_not_fit_are_refused(name: str, value: Tensor) -> None:
    with pytest.raises(ConfigError, match=f"Decision.assign: '{name}' needs finite values, shaped as a weight"):
        run(lambda _: Decision(assign={name: value}))


def test_a_phase_starts_with_the_initial_weights_of_the_inputs_and_units_that_are_left() -> None:
    torch.manual_seed(0)
    net = units()
    initial = net[1].weight.detach().clone()
    off = {"0": torch.arange(8) > 5, "1": torch.arange(6) < 2}
    method = Says(lambda _: Decision(off=off), (Phase("one"), Phase("two", start="initial", lr=1e-10)))
    fit(net, batches(), epochs=2, method=method, settings=Settings(lr=0.02))
    torch.testing.assert_close(net[1].weight.detach(), initial[2:, :6])


@pytest.mark.parametrize("start", ["current", "initial", "fresh"])
def test_modules_rest_also_where_a_phase_starts_anew(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, Tensor] = {}
    modes, step = [], Trainer.train_step

    def watched(run: Trainer, *args: object) -> Tensor:
        modes.append([module.training for module in (run.net.net[0], run.net.net[1], run.net.net[4])])
        return step(run, *args)

    def decide(run: Run) -> Decision:
        held.update({key: value.clone() for key, value in run.net.net.state_dict().items()})
        return Decision(freeze=frozenset({"0", "1"}))

    monkeypatch.setattr(Trainer, "train_step", watched)
    net = run(decide, Phase("one"), Phase("two", start=start))  # type: ignore[arg-type]
    for key, value in net.state_dict().items():
        assert torch.equal(value, held[key]) == (key.split(".")[0] in ("0", "1")), key
    half = len(modes) // 2
    assert modes == [[True] * 3] * half + [[False, False, True]] * half
    assert all(p.requires_grad for p in net.parameters())  # the run leaves no trace


def test_moments_of_what_goes_on_learning_stay() -> None:
    """The layers before it rest: the last one learns as if nothing had been decided, but for the frozen inputs."""
    moments = []

    class Resting(Freezing):
        def decide(self, run: Run) -> Decision:
            before = {p: dict(state) for p, state in run.optimizer.state.items()}  # type: ignore[attr-defined]
            moments.append(before)
            return super().decide(run)

        def epoch(self, run: Run):  # type: ignore[no-untyped-def]
            if moments:
                (last,) = (group["params"] for group in run.optimizer.param_groups)  # type: ignore[attr-defined]
                net = run.net.net
                assert [id(p) for p in last] == [id(p) for p in net[4].parameters()]
                for p in last:
                    for key, value in run.optimizer.state[p].items():  # type: ignore[attr-defined]
                        assert value is moments[-1][p][key]
            return super().epoch(run)

    torch.manual_seed(0)
    fit(dropping(), batches(), epochs=2, method=Resting(), settings=Settings(lr=0.02))
    assert len(moments) == 2


def test_a_module_that_is_not_there_cannot_rest() -> None:
    with pytest.raises(ConfigError, match=r"Decision.freeze: the network has no module 'nowhere'"):
        run(lambda _: Decision(freeze=frozenset({"nowhere"})))


def test_all_modules_may_rest() -> None:
    seen: list[Tensor] = []

    def decide(run: Run) -> Decision:
        seen.append(torch.cat([p.detach().flatten() for p in run.net.net.parameters()]))
        return Decision(freeze=frozenset({""}))

    net = run(decide, Phase("one"), Phase("two", restart=False))
    assert torch.equal(torch.cat([p.detach().flatten() for p in net.parameters()]), seen[0])


def test_a_phase_that_ends_early_makes_the_run_shorter() -> None:
    torch.manual_seed(0)
    rows = fit(dropping(), batches(), epochs=8, method=Stopping(), settings=Settings(lr=0.02)).rows
    assert [row.phase for row in rows] == ["a", "b"]  # one of four epochs each
    assert [row.nu for row in rows] == [1 / 8, 2 / 5]


def test_the_rates_of_phases_that_end_early() -> None:
    """Of three phases of two epochs the first is one epoch long; the second shares its schedule."""
    phases = (Phase("a"), Phase("b", restart=False), Phase("c", lr=0.5))
    table = Timetable(phases, 6)
    table.stop(1)
    table.stop(3)  # where the second ends by itself
    assert [(s.begin, s.end, s.rate_begin, s.rate_end) for s in table.stretches] == [
        (0, 1, 0, 3),
        (1, 3, 0, 3),
        (3, 5, 3, 5),
    ]
    assert (table.length, table.epochs, table.stops) == (5, 6, [1])
    assert table.at(2).rate(20, 10) == learning_rate(20, 30, warmup_steps(30))
    assert table.at(4).rate(40, 10) == 0.5 * learning_rate(10, 20, warmup_steps(20))


def test_a_rate_that_rises_again() -> None:
    """Half-way through the second of two phases of 40 steps, so for 20 steps: 2 to rise, and the last 6 to fall."""
    table = Timetable((Phase("a"), Phase("b", lr=0.5, restart=False, rise_again=0.5)), 8)
    without = Timetable((Phase("a"), Phase("b", lr=0.5, restart=False)), 8)
    rates = [table.at(step // 10).rate(step, 10) for step in range(80)]
    assert rates[:60] == [without.at(step // 10).rate(step, 10) for step in range(60)]
    assert rates[60:] == pytest.approx([0.25, *[0.5] * 13, *(0.5 * k / 6 for k in (6, 5, 4, 3, 2, 1))])


def test_the_optimiser_forgets_as_the_rate_rises_again() -> None:
    """Adam counts its steps from there, so that its mean squares are again those of the steps that they divide."""
    counts: list[float] = []

    class Counting(Says):
        def stepped(self, run: Run) -> None:
            state = run.optimizer.state.values()  # type: ignore[attr-defined]
            counts.append(float(next(iter(state))["step"]))

    torch.manual_seed(0)
    loader, phase = batches(), Phase("train", rise_again=0.5)
    fit(dropping(), loader, epochs=2, method=Counting(lambda _: Decision(), (phase,)), settings=Settings(lr=0.02))
    steps = len(counts)
    assert steps == 2 * len(loader)
    assert counts == [*range(1, steps // 2 + 1), *range(1, steps // 2 + 1)]


class Summing(torch.optim.Optimizer):
    """Adds up its steps, from 10, in a state that is there before the first, as that of Adagrad in torch 2.6."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["count"] = torch.tensor(10.0)

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["count"] += 1
                p.data.sub_(p.grad + group["weight_decay"] * p.data, alpha=group["lr"])


def test_an_optimiser_that_keeps_numbers_before_its_first_step_begins_with_them_again() -> None:
    counts: list[float] = []

    class Counting(Says):
        def stepped(self, run: Run) -> None:
            counts.append(float(next(iter(run.optimizer.state.values()))["count"]))  # type: ignore[attr-defined]

    torch.manual_seed(0)
    method = Counting(lambda _: Decision(), (Phase("train", rise_again=0.5),))
    fit(dropping(), batches(), epochs=2, method=method, settings=Settings(lr=0.02, optimizer=Summing))
    half = len(counts) // 2
    assert half > 1 and counts == 2 * [10.0 + k for k in range(1, half + 1)]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("stops", [9], "stops: expected epochs before the last"), ("frozen", ["nowhere"], "does not fit the run")],
)
def test_a_damaged_checkpoint_is_refused(field: str, value: object, says: str, tmp_path: Path) -> None:
    def again() -> None:
        torch.manual_seed(0)
        fit(dropping(), batches(), epochs=8, method=Stopping(), settings=Settings(lr=0.02), out=tmp_path)

    again()
    state = read_checkpoint(tmp_path / "checkpoint.pt")
    write_checkpoint(tmp_path / "checkpoint.pt", {**state, field: value})
    with pytest.raises(CheckpointError, match=says):
        again()
