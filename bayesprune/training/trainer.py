"""The state of a training run, and its steps: what every method of pruning shares."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import each
from bayesprune.data.spans import Span
from bayesprune.errors import ConfigError
from bayesprune.infer.plain import mode_of
from bayesprune.methods.protocol import Batch, Method, Model, Phase, Site, Stats
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.batches import Loader, batch_errors, order
from bayesprune.training.checks import check_data, check_net
from bayesprune.training.cuts import Cuts
from bayesprune.training.decisions import decision_of, edit_weights, needs_of, switch_off
from bayesprune.training.devices import flush_denormals
from bayesprune.training.engine import Engine, memory_errors
from bayesprune.training.fingerprint import fingerprint
from bayesprune.training.frozen import Frozen
from bayesprune.training.history import EpochRow, History
from bayesprune.training.layout import check_layout
from bayesprune.training.masks import Masks
from bayesprune.training.metrics import Score, evaluate
from bayesprune.training.optimizer import build_optimizer, prepare_step, rate_factors
from bayesprune.training.phases import Timetable
from bayesprune.training.reader import Reader
from bayesprune.training.records import TRAINING, Records
from bayesprune.training.seeds import next_seed
from bayesprune.training.starts import Starts
from bayesprune.training.statistics import Statistics
from bayesprune.training.views import Views, sites_of


class Trainer:
    """A run between two epochs, which is also the `Run` that its method sees.

    Args:
        net: What is trained.
        loader: The training batches.
        epochs: Length of the run.
        prune: Whether structures are removed while training.
        settings: How the weights are trained.
        engine: Where training computes.
        method: The method of pruning.
        run: What tells this run from every other.
        val_loader: Batches to score.
    """

    batch: Batch

    def __init__(
        self,
        net: Model,
        loader: Loader,
        epochs: int,
        prune: bool,
        settings: Settings,
        engine: Engine,
        method: Method,
        run: str | None = None,
        val_loader: Loader | None = None,
    ):
        self.net, self.loader, self.prune, self.settings, self.engine = net, loader, prune, settings, engine
        self.method, self.run, self.val_loader, self.epochs = method, run, val_loader, epochs
        check_net(net)
        if engine.divides and not method.posterior:
            raise ConfigError(f"fit: strategy 'fsdp' does not go with method {method.name!r}; take strategy 'auto'")
        engine.place(net)
        net.likelihood.set_fitted_parameters(0.0)
        first = check_data(net, loader)
        self.example, self.outputs, self.steps_per_epoch = first.example, first.outputs, first.batches
        self.reader = Reader(net, first.outputs, loader, engine.input)
        if engine.device.type == "cpu":
            check_layout(net, each(first.example, engine.input))
        self.epoch = self.step = net.branch_evaluations = 0
        self.cuts, self.masks_held = Cuts(net, self.trained, first.example), Masks(self.trained)
        seed = next_seed(engine)
        self.generator = torch.Generator().manual_seed(seed)
        self.identity = fingerprint(net, prune, settings, method)
        needs = needs_of(method, self)
        if engine.rank > 0:  # or the parts of a batch would share their dropout masks
            torch.manual_seed(seed + engine.rank)
        method.to(engine.device)
        self.timetable, self.statistics = Timetable(needs.phases, epochs), Statistics(net, needs, engine)
        self.stretch, self.starts = self.timetable.stretches[0], Starts(net, needs.phases)
        self.frozen, self.factors = Frozen(net, settings.freeze_statistics), rate_factors(net, settings.layer_decay)
        self.cuts.followers += [self.masks_held.follow, self.starts.follow, self.statistics.follow]
        self.views = Views(method, needs, self)
        self._new_optimizer()
        self.module, self.gates = engine.wrap(net), mode_of(self.net)
        self.records = Records(net, self.example, History(removals=self.cuts.removals))
        self.records.remember(self.cuts.origin, method.evidence())

    # what the method sees ------------------------------------------------------------------------------------------

    @property
    def sites(self) -> list[Site]:
        """Where a method may act."""
        return sites_of(self.net.net)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """By name of a weight, the entries that are kept."""
        return self.masks_held.kept

    @property
    def origin(self) -> Mapping[str, Tensor]:
        """By gate name, the indices that the structures left had at the start."""
        return self.cuts.origin

    @property
    def phase(self) -> Phase:
        """The present phase, until the next one's first epoch begins."""
        return self.stretch.phase

    @property
    def progress(self) -> float:
        """How much of the run's steps is done."""
        return self.step / (self.epochs * self.steps_per_epoch)

    @property
    def history(self) -> History:
        """The record of the run."""
        return self.records.history

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that is trained but θ, by name: what `Model.trained` says, and the method's own parameters."""
        return self.net.trained() | {f"method.{name}": p for name, p in self.method.named_parameters()}

    def validate(self) -> Score:
        """Score the network on the validation loader; charged to the run."""
        if self.val_loader is None:
            raise ConfigError(f"fit: method {self.method.name!r} needs a val_loader")
        examples = sum(len(batch[1]) for batch in self.val_loader)
        self.records.charge(examples)
        return evaluate(self.net, self.val_loader)

    def stats(self) -> Stats:
        """What `Needs.stats` names; charged to the run."""
        order(self.loader, self.epoch - 1)  # that of the epoch that ended, however often this is asked
        numbered = zip(range(self.steps_per_epoch), self.loader, strict=False)
        batches = (Batch(*self.reader(batch, k), self.part(k, len(batch[1]))) for k, batch in numbered)
        found = self.statistics(self.sites, batches)
        self.records.charge(found.examples * self.statistics.passes)
        return found

    def remove(
        self, off: Mapping[str, Tensor], net_cost: Tensor | None = None, forced: Tensor | None = None
    ) -> Tensor | None:
        """Remove structures, see `Run.remove`.

        Args:
            off: By gate name, which of its structures go, bool.
            net_cost: For the record, the evidence for each, shape ``(S,)``.
            forced: For the record, which go for the sake of a budget, bool, shape ``(S,)``; ``None`` for none.
        """
        self.records.before_removal(self.cuts.origin, self.method.evidence())
        self.views.remove()
        try:
            kept = self.cuts.remove(self.step, off, net_cost, forced)
        finally:
            self.views.install()
        if kept is not None:
            self.follow()
        return kept

    # an epoch ------------------------------------------------------------------------------------------------------

    def run_epoch(self, checkpoint: Path | None = None) -> EpochRow:
        """Train for one epoch, decide, score, and append a row; ``checkpoint`` is where one would be, for messages."""
        began = time.perf_counter()
        with self.steps_of_an_epoch():
            total, count, more = self._steps()
        return self.end_epoch(total, count, more, began, checkpoint)

    @contextmanager
    def steps_of_an_epoch(self) -> Iterator[None]:
        """The context in which the steps of the next epoch are taken."""
        self._begin_phase()
        self.net.train()
        self.frozen.rest()
        order(self.loader, self.epoch)
        with self.method.epoch(self), flush_denormals(), self.engine.sharded(self.net, self.optimizer):
            yield

    def end_epoch(
        self, total: Tensor, count: int, more: bool, began: float, checkpoint: Path | None = None
    ) -> EpochRow:
        """Decide, score, and append a row, when the steps of an epoch are done.

        Args:
            total: Sum of the data terms of all examples.
            count: Their number, in all processes.
            more: Whether there were more batches than an epoch has.
            began: When the epoch began, by `time.perf_counter`.
            checkpoint: Where one would be, for messages.
        """
        self.reader.end_epoch(self.steps_per_epoch, count, more)
        self.engine.average_statistics(self.net)
        nll = float(self.engine.mean(total)) * self.engine.world_size / count
        self.epoch += 1
        note = self._decide()
        score = Score(float("nan"), float("nan")) if self.val_loader is None else evaluate(self.net, self.val_loader)
        self.records.remember(self.cuts.origin, self.method.evidence())
        with torch.no_grad():
            prior = 0.0 if self.method.posterior else self.net.likelihood.penalty() / self.net.num_data
            loss, masked = nll + float(self.method.loss(self)) + float(prior), self.masks_held.count
        found = {"epoch": self.epoch, "phase": self.phase.name, "loss": loss, "nll": nll, "masked": masked, **note}
        return self.records.add(found, score, self.step, time.perf_counter() - began, self.settings.lr, checkpoint)

    def _steps(self) -> tuple[Tensor, int, bool]:
        """Take the steps of an epoch.

        Returns:
            The sum of the data terms of all examples, still on the device; their number in all processes; whether there
            were more batches than an epoch has.
        """
        total, count, more = torch.zeros((), device=self.engine.device), 0, False
        for number, batch in enumerate(self.loader):
            if more := number == self.steps_per_epoch:
                break
            x, y = self.reader(batch, number)
            part = self.part(number, len(y))
            with batch_errors(self.net.net, x, number), memory_errors(part.size):
                total += self.train_step(Batch(x, y, part)) * len(y)
            count += part.size
        return total, count, more

    def part(self, number: int, size: int) -> Span:
        """Which examples of a batch this process holds.

        Args:
            number: Place of the batch in the epoch.
            size: How many this process was given.
        """
        spans = getattr(self.loader, "spans", None)
        if spans is not None:
            return spans[number]
        return Span(size * self.engine.world_size, size * self.engine.rank, size * (self.engine.rank + 1))

    def train_step(self, batch: Batch) -> Tensor:
        """One step. Returns the batch's mean data term, still on the device."""
        method, engine, self.batch = self.method, self.engine, batch
        rate = self.settings.lr * self.stretch.rate(self.step, self.steps_per_epoch)
        again = self.step == self.stretch.again(self.steps_per_epoch)
        prepare_step(self.optimizer, rate, self._built() if again else None)
        self.optimizer.zero_grad()
        loss, nll = method.objective(self)
        share = len(batch.y) * engine.world_size / batch.part.size  # gradients are averaged over processes
        if loss.requires_grad:  # not where gates alone are learned and this is no step of theirs
            engine.backward(loss if share == 1 else loss * share)
        for parameter in self.apart:  # not part of the module that averages gradients
            if parameter.grad is not None:
                parameter.grad = engine.mean(parameter.grad)
        method.grads(self)
        self.masks_held.on_gradients()
        self.optimizer.step()
        self.masks_held.on_weights(self.optimizer)
        self.step += 1
        self.records.examples += TRAINING * batch.part.size
        with torch.no_grad():
            method.stepped(self)
        if type(method).stepped is not Method.stepped:
            self.masks_held.on_weights(self.optimizer)
        return nll

    def _begin_phase(self) -> None:
        """As the first epoch of a phase begins: the weights it starts with, and a new optimiser."""
        self.stretch = self.timetable.at(self.epoch)
        if self.epoch == self.stretch.begin and self.epoch > 0:
            with self.frozen.kept():
                self.starts.apply(self.phase, self.generator)
            if self.phase.restart:
                self._new_optimizer()
            self.masks_held.on_weights(self.optimizer)
        if self.epoch == self.stretch.begin:
            self.statistics.begin()

    def _new_optimizer(self) -> None:
        self.optimizer = self.cuts.optimizer = self._built()
        self.apart = [*self.net.likelihood.parameters(), *self.method.parameters()]

    def _built(self) -> torch.optim.Optimizer:
        return build_optimizer(self.net, self.method, self.settings, self.factors, self.prune)

    def _decide(self) -> dict[str, object]:
        """Ask the method if it is time, and do what it says; returns what goes into the row."""
        if not self.stretch.decides(self.epoch):
            return {}
        decision = decision_of(self.method, self)
        edit_weights(decision, self.masks_held, self.optimizer)
        self.records.charge_open(decision.spent)
        if switch_off(decision, self.masks_held, self.net):
            self.gates = mode_of(self.net)
            if self.prune:
                self.remove({name: part == 0 for name, part in self.net.by_gate(self.net.theta.detach()).items()})
        self.freeze(decision.freeze)
        if decision.stop:
            self.timetable.stop(self.epoch)
            self.epochs = self.timetable.length
        self.statistics.begin()
        return decision.note

    def freeze(self, names: Iterable[str]) -> None:
        """Let modules rest for the rest of the run; what the optimiser keeps of other weights stays."""
        if self.frozen.add(names):
            state = self.optimizer.state
            self._new_optimizer()
            left = (p for group in self.optimizer.param_groups for p in group["params"])
            self.optimizer.state.update({p: state[p] for p in left if p in state})
            self.follow()

    def follow(self) -> None:
        """Let everything that holds the network go on with the smaller one."""
        self.engine.place(self.net, self.optimizer)
        self.module = self.engine.wrap(self.net)
        self.gates = mode_of(self.net)
