"""A run whose loop is another library's, which hands over its batches one by one."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.infer import Likelihood
from bayesprune.infer.outputs import LossOn
from bayesprune.methods.protocol import Batch, Method
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.batches import Loader
from bayesprune.training.choices import model_of, settings_of
from bayesprune.training.engine import Engine
from bayesprune.training.history import EpochRow
from bayesprune.training.trainer import Trainer


class HandedRun:
    """What `bayesprune.fit` does around the steps of a run, in one process.

    `begin`, then for every epoch `begin_epoch`, `step` for each of its batches, `end_epoch`, and at last `end`;
    `close` where it breaks off.

    Args:
        model: As for `bayesprune.fit`.
        loader: The training batches that are to be handed over.
        epochs: Length of the run.
        method: The method of pruning.
        likelihood: As for `bayesprune.fit`.
        loss_on: As for `bayesprune.fit`.
        prune: Whether structures are removed while training.
        settings: As for `bayesprune.fit`.
        device: Where the network is.

    Attributes:
        trainer: The run.

    Raises:
        ConfigError: for a model and settings that cannot work.
        DataError: for batches that cannot be trained on.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        epochs: int,
        *,
        method: Method,
        likelihood: Likelihood | None,
        loss_on: LossOn,
        prune: bool,
        settings: Settings | None,
        device: str | torch.device,
    ):
        net = model_of(model, method, likelihood, loss_on, loader, 1)
        settings = settings_of(model, method, settings)
        self.trainer = Trainer(net, loader, epochs, prune, settings, Engine(device), method)
        self._held, self._epoch = ExitStack(), ExitStack()

    def begin(self) -> None:
        """Let the network be trained, anew or from what was taken up."""
        self._held.callback(self.trainer.frozen.thaw)
        self.trainer.views.install()
        self._held.callback(self.trainer.views.remove)

    def begin_epoch(self) -> None:
        """Begin an epoch."""
        self._began, self._count = time.perf_counter(), 0
        self._total = torch.zeros((), device=self.trainer.engine.device)
        self._epoch.enter_context(self.trainer.steps_of_an_epoch())

    def step(self, batch: Any, number: int) -> Tensor:
        """Take a step; returns the batch's mean data term, nats, on the device.

        Args:
            batch: ``(inputs, targets)`` or ``(inputs, targets, weights)``.
            number: Its place in the epoch.
        """
        x, y = self.trainer.reader(batch, number)
        part = self.trainer.part(number, len(y))
        nll = self.trainer.train_step(Batch(x, y, part))
        self._total += nll * len(y)
        self._count += part.size
        return nll

    def end_epoch(self) -> EpochRow:
        """Decide, and give the figures of the epoch."""
        self._epoch.close()
        return self.trainer.end_epoch(self._total, self._count, False, self._began)

    def end(self) -> None:
        """Leave the network as `bayesprune.fit` does."""
        self.trainer.views.bake()
        self._held.close()

    def close(self) -> None:
        """Take away what the run has put on the network."""
        self._epoch.close()
        self._held.close()
