"""A plain PyTorch loop for the networks that have no gates: training from scratch, and fine-tuning after pruning."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from recipe import Deadline, Recipe, nesterov, peak_memory
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.data import EpochLoader
from bayesprune.methods.rates import learning_rate
from bayesprune.training import Schedule
from bayesprune.training.checkpoint import read_checkpoint, write_checkpoint


@dataclass
class Progress:
    """What a run has taken so far.

    Attributes:
        seconds: Of every epoch; evaluation and checkpoints are not in it.
        peak: Most memory the device's tensors took, bytes; ``None`` on the CPU.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None


class PlainTrainer:
    """Steps of a network without gates.

    Args:
        net: The network, on the recipe's device.
        recipe: Optimiser, loss and precision.
        schedule: Length of the run, and the factor on the learning rate at each step.
        lr: Peak learning rate.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, schedule: Schedule, lr: float):
        self.net, self.recipe, self.schedule, self.lr = net, recipe, schedule, lr
        self.forward = torch.compile(net, dynamic=False) if recipe.compile else net
        self.optimizer = nesterov(net.parameters(), lr=lr, weight_decay=recipe.weight_decay)
        self.done = 0

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step; returns the batch's mean loss, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * learning_rate(self.done, self.schedule.steps, self.schedule.warmup)
        with self.recipe.autocast():
            loss = F.cross_entropy(self.forward(x), y, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        return loss.detach()

    def run(self, loader: EpochLoader, checkpoint: Path, deadline: Deadline) -> Progress:
        """Train, or go on from ``checkpoint``, which is written after every epoch.

        Raises:
            OutOfTime: after an epoch and its checkpoint, when the deadline is near.
        """
        progress = self._load(checkpoint) if checkpoint.exists() else Progress()
        self.net.train()
        for epoch in range(len(progress.seconds), self.schedule.epochs):
            loader.set_epoch(epoch)
            began = time.perf_counter()
            total = torch.zeros((), device=self.recipe.device)
            for x, y in loader:
                x = x.to(self.recipe.device, memory_format=self.recipe.memory_format, non_blocking=True)
                total += self.step(x, y.to(self.recipe.device, non_blocking=True))
            loss = float(total) / len(loader)  # waits for the device
            progress.seconds.append(time.perf_counter() - began)
            progress.peak = peak_memory(progress.peak)
            self._save(checkpoint, progress)
            print(f"  epoch {epoch + 1}: loss {loss:.4f}, {progress.seconds[-1]:.2f} s", flush=True)
            deadline.epoch_done(progress.seconds[-1])
        return progress

    def _save(self, path: Path, progress: Progress) -> None:
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "done": self.done}
        state |= {"seconds": progress.seconds, "peak": progress.peak, "rng": torch.get_rng_state()}
        state["cuda_rng"] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        write_checkpoint(path, state)

    def _load(self, path: Path) -> Progress:
        state = read_checkpoint(path)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return Progress(state["seconds"], state["peak"])
