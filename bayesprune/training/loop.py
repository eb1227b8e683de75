"""`fit`: train a Bayesian network, let it prune itself, and leave a record and a checkpoint at every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from bayesprune.errors import CheckpointError, ConfigError, NonFiniteLossError
from bayesprune.infer import BatchObjective, BayesianNet, get_estimator
from bayesprune.pruning import ExpectedCost, cost
from bayesprune.training.checkpoint import read_checkpoint, write_checkpoint
from bayesprune.training.checks import Loader, check_batch, check_data, check_loader
from bayesprune.training.gates import GateUpdates
from bayesprune.training.history import EpochRow, History
from bayesprune.training.metrics import Score, evaluate
from bayesprune.training.schedule import Schedule
from bayesprune.training.settings import Settings
from bayesprune.training.surgeon import Surgeon


def fit(
    net: BayesianNet,
    train_loader: Loader,
    *,
    epochs: int,
    val_loader: Loader | None = None,
    prune: bool = True,
    settings: Settings | None = None,
    out: str | Path | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> History:
    """Train ``net``, removing structures as their gates converge.

    Args:
        net: The network; it is smaller afterwards.
        train_loader: Batches ``(x, y)`` with a length; if it has ``set_epoch``, that is called with the epoch's number
            (from 0).
        epochs: Length of the run.
        val_loader: Batches to score after every epoch.
        prune: Whether structures are removed while training; if not, gates converge all the same and `compact` removes
            them.
        settings: How to train.
        out: Folder for ``checkpoint.pt`` and ``history.csv``, written after every epoch. If it holds a checkpoint of
            the same network and run, training goes on from there and ends with the same numbers as an unbroken run.
        on_epoch: Called with every finished row.

    Returns:
        The record of the whole run. Losses are in nats per example.

    Raises:
        ConfigError: for settings that cannot work.
        DataError: for data that do not fit the network, or that are not finite.
        CheckpointError: if the checkpoint in ``out`` is damaged or of another network.
        NonFiniteLossError: when the loss is no longer finite; names the last good checkpoint.
    """
    trainer = Trainer(net, train_loader, epochs, prune, settings or Settings())
    if val_loader is not None:
        check_loader(net.likelihood, trainer.outputs, val_loader, "validation")
    path = None if out is None else Path(out) / "checkpoint.pt"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            trainer.load(read_checkpoint(path), path)
    while trainer.epoch < epochs:
        row = trainer.run_epoch(val_loader, path)
        if path is not None:
            trainer.history.write_csv(path.parent / "history.csv")
            write_checkpoint(path, trainer.state())
        if on_epoch is not None:
            on_epoch(row)
    return trainer.history


class Trainer:
    """The state of a run between two epochs."""

    def __init__(self, net: BayesianNet, loader: Loader, epochs: int, prune: bool, settings: Settings):
        self.net, self.loader, self.prune, self.settings = net, loader, prune, settings
        self.example, self.outputs = check_data(net, loader)
        unknown = settings.schedule.keys() - ({f.name for f in fields(Schedule)} - {"epochs", "steps_per_epoch"})
        if unknown:
            raise ConfigError(f"fit: Settings.schedule has no field {sorted(unknown)[0]!r}; see training.Schedule")
        self.schedule = Schedule(epochs, len(loader), **settings.schedule)  # type: ignore[arg-type]
        self.estimator = get_estimator(settings.estimator)
        decay = net.weight_precision / net.num_data
        extra = {"fused": True} if settings.optimizer is torch.optim.Adam else {}
        self.optimizer = settings.optimizer(list(net.weights().values()), lr=settings.lr, weight_decay=decay, **extra)
        if isinstance(self.optimizer, torch.optim.AdamW):
            raise ConfigError(
                "fit: AdamW decouples weight decay from the gradient, but the slab's density is part of the loss; use "
                "Adam or SGD"
            )
        self.updates = GateUpdates(net)
        self.surgeon = Surgeon(net, self.optimizer, self.updates, settings.patience)
        self.history = History(removals=self.surgeon.removals)
        self.fingerprint = _fingerprint(net, prune, settings)
        self.checked = False
        self.start_branches = net.num_branches
        net.branch_evaluations = 0
        self.start_gates = {name: len(theta) for name, theta in net.gate_probs().items()}
        self.epoch = self.step = 0
        self.price = settings.price and settings.price.relative_to(cost(net, self.example))
        self._reprice(smaller=True)
        self._remember_thetas()

    def run_epoch(self, val_loader: Loader | None, checkpoint: Path | None) -> EpochRow:
        """Train for one epoch, score, and append a row to the history."""
        began = time.perf_counter()
        self.net.train()
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(self.epoch)
        self._reprice()
        device = self.net.theta.device
        total = torch.zeros((), device=device)
        count = 0
        for number, (x, y) in enumerate(self.loader):
            if not self.checked:
                check_batch(self.net.likelihood, self.outputs, x, y, f"training batch {number}")
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            total += self._train_step(x, y) * len(y)
            count += len(y)
            self._after_step(x, y)
        self.checked = True
        if count != self.net.num_data and not hasattr(self.loader, "dataset"):
            raise ConfigError(
                f"fit: the BayesianNet was built with num_data={self.net.num_data}, but an epoch of the train_loader "
                f"has {count} examples; they must agree, because num_data weighs prior against data"
            )
        nll = float(total) / count
        if self.schedule.phase(self.step - 1) == "sample":
            self.updates.look()
            self._prune(self.step)
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

    def _train_step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step of the weights and, while sampling, of θ. Returns the batch's mean loss, still on the device."""
        net, schedule = self.net, self.schedule
        rate = self.settings.lr * schedule.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        objective = BatchObjective(net, x, y)
        xi = net.sample_gates(x)
        moves = net.num_gates > 0 and schedule.phase(self.step) == "sample" and self.step % self.settings.every == 0
        loss = self.estimator(objective, net.theta, xi, net.price) if moves else objective.losses(xi, skip=True).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        data = loss.detach()
        if moves:
            data = data - (net.price * net.theta.detach()).sum()
            self.updates.sampled(schedule.sampling_step(self.step) * self.settings.every)
        return data

    def _after_step(self, x: Tensor, y: Tensor) -> None:
        """While settling: gather exact differences on the first batches of each interval, then move θ and remove."""
        schedule = self.schedule
        phase = schedule.phase(self.step)
        if phase == "sample" and self.step % schedule.settle_every == 0:
            self._reprice()
        if self.step == schedule.settle_start:
            self.updates.look()
        if phase == "settle" and self.net.num_gates:
            position = (self.step - schedule.settle_start) % schedule.settle_every
            if position < schedule.settle_batches:
                self.updates.measure(x, y)
            if position == schedule.settle_every - 1:
                self.updates.settle(schedule.settling_step(self.step))
                self._prune(self.step + 1)
                self._reprice()
        self.step += 1
        if self.step == max(schedule.settle_end, schedule.settle_start) and self.net.num_gates:
            self.surgeon.guard()

    def _prune(self, step: int) -> None:
        """Look at the gates and remove what may go."""
        if self.prune and self.surgeon.check(step):
            self._reprice(smaller=True)

    def _reprice(self, smaller: bool = False) -> None:
        """Let prices follow the expected cost at the present θ."""
        if self.price is None or not self.net.num_gates:
            return
        if smaller:
            self._expected = ExpectedCost(self.net.net, self.example)
        probabilities = self.net.by_gate(self.net.theta.detach())
        prices = self.price(self._expected, probabilities)
        vector = torch.cat([prices[name] for name in self.net.gate_names])
        self.net.log_gamma.copy_(vector * self.net.num_data * self.schedule.price_factor(self.step))

    # records -------------------------------------------------------------------------------------------------------

    def _remember_thetas(self) -> None:
        """Append θ of all starting gates, 0 where removed, to the history."""
        present = self.net.gate_probs()
        for name, size in self.start_gates.items():
            full = torch.zeros(size)
            if name in present:
                full[self.surgeon.origin[name]] = present[name].cpu().float()
            self.history.thetas.setdefault(name, []).append(full)

    def _row(self, nll: float, score: Score, seconds: float) -> EpochRow:
        net = self.net
        theta = net.theta.detach()
        interior = int(((theta > 0.01) & (theta < 0.99)).sum())
        size = cost(net, self.example)
        return EpochRow(
            epoch=self.epoch,
            phase=self.schedule.phase(self.step - 1),
            loss=nll + float((net.price * theta).sum()) + float(net.slab_penalty().detach()),
            nll=nll,
            val_nll=score.nll,
            val_accuracy=score.accuracy,
            gates_left=net.num_gates,
            gates_converged=1 - interior / max(1, sum(self.start_gates.values())),
            params=size.params,
            macs=size.macs or 0,
            seconds=seconds,
        )

    # checkpoints ---------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """Everything that the rest of the run depends on."""
        return {
            **self.fingerprint,
            "epochs": self.schedule.epochs,
            "steps_per_epoch": self.schedule.steps_per_epoch,
            "epoch": self.epoch,
            "step": self.step,
            "branch_evaluations": self.net.branch_evaluations,
            "origin": self.surgeon.origin,
            "agreed": self.surgeon.monitor.agreed.cpu(),
            "updates": self.updates.state(),
            "tensors": self.net.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load(self, state: dict, path: Path) -> None:
        """Take up the state of a checkpoint of the same network and run.

        Raises:
            CheckpointError: if network, number of epochs or data differ from the checkpoint's.
        """
        for key, mine in {
            **self.fingerprint,
            "epochs": self.schedule.epochs,
            "steps_per_epoch": self.schedule.steps_per_epoch,
        }.items():
            if state.get(key) != mine:
                raise CheckpointError(
                    f"{path} belongs to another run: its {key} is {_short(state.get(key))}, here it is {_short(mine)}; "
                    "resume with the same network, data, settings and epochs, or start in another folder"
                )
        self.surgeon.remove(state["origin"])
        self.net.net.load_state_dict(state["tensors"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates.load(state["updates"])
        self.surgeon.monitor.agreed = state["agreed"].to(self.net.theta.device)
        self.history = History.from_state(state["history"])
        self.surgeon.removals = self.history.removals
        self.epoch, self.step = state["epoch"], state["step"]
        self._reprice(smaller=True)
        self.net.branch_evaluations = state["branch_evaluations"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _fingerprint(net: BayesianNet, prune: bool, settings: Settings) -> dict[str, object]:
    """What tells one run from another, besides its length."""
    prices = net.log_gamma.cpu().double()
    return {
        "network": {name: list(p.shape) for name, p in net.net.named_parameters()},
        "model": [
            type(net.likelihood).__name__,
            sorted(vars(net.likelihood).items()),
            net.num_data,
            net.weight_precision,
            [float(prices.sum()), float(prices.square().sum())],
        ],
        "settings": [prune, *settings.plain()],
    }
