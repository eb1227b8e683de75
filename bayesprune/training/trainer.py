"""The state of a training run, and its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from bayesprune.data.inputs import Inputs, each, joined, shapes_of
from bayesprune.data.shards import Span
from bayesprune.errors import ConfigError, NonFiniteLossError
from bayesprune.infer import BatchObjective, BayesianNet, GateSampler, get_estimator
from bayesprune.infer.objective import penalty
from bayesprune.infer.targets import Targets, joined_targets
from bayesprune.methods.svi.gates import GateUpdates
from bayesprune.methods.svi.prices import Prices
from bayesprune.methods.svi.schedule import PHASES, Schedule
from bayesprune.methods.svi.settings import Settings
from bayesprune.pruning import cost, gates_left
from bayesprune.training.batches import Loader, batch_errors
from bayesprune.training.checks import check_data, check_net
from bayesprune.training.devices import flush_denormals
from bayesprune.training.engine import Engine, memory_errors
from bayesprune.training.fingerprint import fingerprint
from bayesprune.training.history import EpochRow, History
from bayesprune.training.layout import check_layout
from bayesprune.training.metrics import Score, evaluate
from bayesprune.training.optimizer import build_optimizer
from bayesprune.training.reader import Reader
from bayesprune.training.surgeon import Surgeon
from bayesprune.types import Cost

EXAMPLES = 1024
"""How many examples tell how many parameters the fit has taken, at least if there are as many."""


class Trainer:
    """The state of a run between two epochs."""

    def __init__(
        self,
        net: BayesianNet,
        loader: Loader,
        epochs: int,
        prune: bool,
        settings: Settings,
        engine: Engine,
        run: str | None = None,
    ):
        self.net, self.loader, self.prune, self.settings, self.engine = net, loader, prune, settings, engine
        self.run = run
        self._counted_cost: tuple[tuple[int, list[bool]], Cost] | None = None
        check_net(net)
        engine.place(net)
        net.theta.requires_grad_()
        net.likelihood.set_fitted_parameters(0.0)
        first = check_data(net, loader)
        self.example, self.outputs = first.example, first.outputs
        self.reader = Reader(net, first.outputs, loader, engine.input)
        if engine.device.type == "cpu":
            check_layout(net, each(first.example, engine.input))
        unknown = settings.schedule.keys() - ({f.name for f in fields(Schedule)} - {"epochs", "steps_per_epoch"})
        if unknown:
            raise ConfigError(f"fit: Settings.schedule has no field {sorted(unknown)[0]!r}; see training.Schedule")
        fields_set = PHASES["fixed" if net.fixed_prior else net.slab] | settings.schedule
        self.schedule = Schedule(epochs, first.batches, **fields_set)  # type: ignore[arg-type]
        self.estimator = get_estimator(settings.estimator)
        if net.slab == "point" and settings.temperature != 1:
            raise ConfigError(
                f"fit: Settings.temperature={settings.temperature} is about the posterior of weights; build the "
                "BayesianNet with slab='normal', or leave the temperature at 1"
            )
        if net.slabs is not None and engine.divides:
            raise ConfigError("fit: Gaussian slabs cannot be divided among processes; take strategy 'auto'")
        self.optimizer = build_optimizer(net, settings, prune)
        self.updates = GateUpdates(net, engine.mean)
        seed = int(engine.broadcast(int(torch.randint(2**62, ()))))
        self.sampler = GateSampler(net, seed)
        if engine.rank > 0:
            torch.manual_seed(seed + engine.rank)  # or the parts of a batch would share their dropout masks
        self.module = engine.wrap(net)
        self.surgeon = Surgeon(net, self.optimizer, self.updates, settings.patience)
        self.history = History(removals=self.surgeon.removals)
        self.fingerprint = fingerprint(net, prune, settings)
        self.start_branches = net.num_branches
        net.branch_evaluations = 0
        self.start_gates = {name: len(theta) for name, theta in net.gate_probs().items()}
        self.epoch = self.step = 0
        self.prices = Prices(net, self.example, settings, self.schedule, engine.broadcast)
        self._remember_thetas()

    def run_epoch(self, val_loader: Loader | None, checkpoint: Path | None) -> EpochRow:
        """Train for one epoch, score, and append a row to the history."""
        began = time.perf_counter()
        self.net.train()
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(self.epoch)
        self.prices.update(self.step)
        total = torch.zeros((), device=self.engine.device)
        count = 0
        examples: list[tuple[Inputs, Targets]] = []
        counted = self._counted()
        with flush_denormals(), self._variances_handed_out(), self.engine.sharded(self.net, self.optimizer):
            more = False
            for number, batch in enumerate(self.loader):
                if more := number == self.schedule.steps_per_epoch:
                    break
                x, y = self.reader(batch, number)
                part = self._part(number, len(y))
                with batch_errors(self.net.net, x, number), memory_errors(part.size):
                    total += self._train_step(x, y, part) * len(y)
                    self._after_step(x, y, part)
                if counted and len(examples) * len(y) < EXAMPLES:
                    examples.append((x, y))
                count += part.size
        self.reader.end_epoch(self.schedule.steps_per_epoch, count, more)
        self.engine.average_statistics(self.net)
        if counted:
            self._count(examples)
        nll = float(self.engine.mean(total)) * self.engine.world_size / count
        if self.schedule.phase(self.step - 1) == "sample":
            self.updates.look()
            self._prune(self.step)
        self.sampler.synchronize()
        score = evaluate(self.net, val_loader) if val_loader is not None else Score(float("nan"), float("nan"))
        self.epoch += 1
        if self.start_branches:
            self.history.branches_computed = self.net.branch_evaluations / (self.step * self.start_branches)
        self._remember_thetas()
        row = self._row(nll, score, time.perf_counter() - began)
        if not math.isfinite(row.loss):
            written = checkpoint is not None and checkpoint.exists()
            last = f"the last good checkpoint is {checkpoint}" if written else "no checkpoint was written yet"
            raise NonFiniteLossError(
                f"the training loss was {row.loss} in epoch {self.epoch}; {last}. Try a lower "
                f"learning rate (now {self.settings.lr}) or check the inputs' scale"
            )
        self.history.rows.append(row)
        return row

    @contextmanager
    def _variances_handed_out(self) -> Iterator[None]:
        """Within the context layers may be handed the variances of their weights, see `Normal.cache_variances`."""
        try:
            yield
        finally:
            self.net.weights_posterior.drop_variances()

    def _refresh(self) -> None:
        """Let what Normal weights cost follow θ, μ and σ."""
        self.net.refresh(self.settings.temperature * self.schedule.slab_share(self.step))

    def _counted(self) -> bool:
        """Whether this epoch ends with a count of the parameters that the fit has taken, see `_count`."""
        cold = self.net.slabs is not None and self.settings.temperature < 1
        return cold and self.net.likelihood.learned_noise is not None and self.schedule.freedom_due(self.epoch)

    def _count(self, examples: list[tuple[Inputs, Targets]]) -> None:
        """Count them on those of this process's examples that have one shape; the mean over processes goes on."""
        alike = [pair for pair in examples if shapes_of(pair[0]) == shapes_of(examples[0][0])]
        x, y = joined([x for x, _ in alike]), joined_targets([y for _, y in alike])
        count = torch.tensor(self.net.uncounted_parameters(x, y, self.settings.temperature), device=self.engine.device)
        self.net.likelihood.set_fitted_parameters(float(self.engine.mean(count)))

    def _part(self, number: int, size: int) -> Span:
        """Which examples of batch ``number`` this process holds, ``size`` in all."""
        spans = getattr(self.loader, "spans", None)
        if spans is not None:
            return spans[number]
        rank, processes = self.engine.rank, self.engine.world_size
        return Span(size * processes, size * rank, size * (rank + 1))

    def _train_step(self, x: Inputs, y: Targets, part: Span) -> Tensor:
        """One step of the weights and, while sampling, of θ. Returns the batch's mean loss, still on the device."""
        net, schedule, engine = self.net, self.schedule, self.engine
        rate = self.settings.lr * schedule.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        xi, on = self.sampler(*part)
        objective = BatchObjective(net, x, y, on=on, module=self.module, generator=self.sampler.generator)
        due = self.step % self.settings.every == 0
        moves = net.num_gates > 0 and schedule.phase(self.step) == "sample" and due
        net.weights_posterior.cache_variances(learn=schedule.scales_due(self.step, self.settings.every))
        with engine.autocast():
            loss = self.estimator(objective, net.theta, xi, net.price) if moves else objective(xi, skip=True).mean()
        self.optimizer.zero_grad()
        share = len(y) * engine.world_size / part.size  # gradients are averaged over processes
        if loss.requires_grad:  # not where gates alone are learned and this is no step of theirs
            engine.backward(loss if share == 1 else loss * share)
        for parameter in net.likelihood.parameters():  # not part of the module that averages gradients
            if parameter.grad is not None:
                parameter.grad = engine.mean(parameter.grad)
        net.add_gradients()
        self.optimizer.step()
        data = loss.detach()
        if moves:
            data = data - (net.price * net.theta.detach()).sum()
            self.updates.sampled(schedule.sampling_step(self.step) * self.settings.every)
            self.sampler.refresh()
        return data

    def _after_step(self, x: Inputs, y: Targets, part: Span) -> None:
        """While settling: gather exact differences on the first batches of each interval, then move θ and remove."""
        schedule = self.schedule
        phase = schedule.phase(self.step)
        if self.net.slabs is not None and schedule.refresh_due(self.step):
            self._refresh()
        if schedule.prices_due(self.step):
            if self.prices.budget is not None:
                self.engine.average_statistics(self.net)
                with self.engine.autocast():
                    self.updates.survey(x, y, self.sampler(*part))
            self.prices.update(self.step, self.updates.differences)
        if self.step == schedule.settle_start:
            self.updates.look()
        if phase == "settle" and self.net.num_gates:
            position = (self.step - schedule.settle_start) % schedule.settle_every
            if position < schedule.batches_to_measure(self.net.num_shared):
                self.engine.average_statistics(self.net)
                units = self.net.num_shared < self.net.num_gates  # these are flipped layer by layer
                with self.engine.autocast(), self.engine.whole(read_only=True) if units else nullcontext():
                    for _ in range(schedule.draws_to_measure(self.net.num_shared)):
                        self.updates.measure(x, y, self.sampler(*part), part.size)
            if position == schedule.settle_every - 1:
                self.updates.settle(schedule.settling_step(self.step))
                with self.engine.whole():
                    self._prune(self.step + 1)
                self.sampler.synchronize()
                self.prices.update(self.step, self.updates.differences)
        self.step += 1
        if self.step == max(1, schedule.settle_end):
            with self.engine.whole():
                self.surgeon.guard()
                if self.prices.enforce(self.updates.differences):
                    self._prune(self.step, at_rest=True)
            self.sampler.synchronize()

    def _prune(self, step: int, at_rest: bool = False) -> None:
        """Look at the gates and remove what may go, or at rest all that is off, on every process alike."""
        self.engine.agree("the gates' inclusion probabilities", self.net.theta.detach())
        if self.prune and (self.surgeon.clear(step) if at_rest else self.surgeon.check(step)):
            self.follow()
            self.prices.rebuild()
            self.prices.update(self.step)

    def follow(self) -> None:
        """Let everything that holds the network go on with the smaller one."""
        self.engine.place(self.net, self.optimizer)
        self.module = self.engine.wrap(self.net)
        self.sampler.synchronize()

    # records -------------------------------------------------------------------------------------------------------

    def _remember_thetas(self) -> None:
        """Append θ of all starting gates, 0 where removed, to the history."""
        present = self.net.gate_probs()
        for name, size in self.start_gates.items():
            full = torch.zeros(size, dtype=torch.float32)
            if name in present:
                full[self.surgeon.origin[name]] = present[name].cpu().float()
            self.history.thetas.setdefault(name, []).append(full)

    def _row(self, nll: float, score: Score, seconds: float) -> EpochRow:
        net = self.net
        theta = net.theta.detach()
        interior = int(((theta > 0.01) & (theta < 0.99)).sum())
        size = self._cost()
        return EpochRow(
            epoch=self.epoch,
            phase=self.schedule.phase(self.step - 1),
            loss=nll + penalty(net),
            nll=nll,
            val_nll=score.nll,
            val_accuracy=score.accuracy,
            gates_left=gates_left(theta),
            gates_converged=1 - interior / max(1, sum(self.start_gates.values())),
            params=size.params,
            macs=size.macs or 0,
            seconds=seconds,
            nu=self.prices.nu,
            expected=self.prices.expected,
        )

    def _cost(self) -> Cost:
        """What the network costs now, counted anew if structures went, or branches are on or off that were not."""
        on = (self.net.theta.detach()[: self.net.num_branches] > 0.5).tolist()
        if self._counted_cost is None or self._counted_cost[0] != (self.net.num_gates, on):
            self._counted_cost = (self.net.num_gates, on), cost(self.net, self.example)
        return self._counted_cost[1]
