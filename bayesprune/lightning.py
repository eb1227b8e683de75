"""Pruning while Lightning trains: a `LightningModule` whose training steps are those of `fit`.

Needs ``lightning`` (``pip install 'bayesprune[lightning]'``). What `bayesprune.fit` does around its steps (phases,
gates, removals, the record) is done at the ends of Lightning's epochs, so that its `Trainer`, its callbacks and its
loggers are used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.infer import Likelihood
from bayesprune.infer.likelihoods import get_likelihood
from bayesprune.infer.outputs import LossOn
from bayesprune.methods import Method, get_method
from bayesprune.training import EpochRow, History, Settings, evaluate
from bayesprune.training.batches import order
from bayesprune.training.handed import HandedRun
from bayesprune.training.loggers import figures
from bayesprune.training.state import Checkpoint

__all__ = ["PruningModule"]

_STATE = "bayesprune"
_GIVEN = ("method", "likelihood", "loss_on", "prune", "settings")
PRECISIONS = ("32-true", "bf16-mixed")


class _Steps(torch.optim.Optimizer):
    """Counts the steps of a run, of which each is taken by a function that is passed to `step`."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__(parameters, {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        return None if closure is None else closure()


def _epochs(trainer: lightning.Trainer) -> int:
    """The length of a run, after what would change its steps has been refused.

    Raises:
        ConfigError: for it.
    """
    if trainer.world_size > 1:
        raise ConfigError("PruningModule trains in one process; for several use bayesprune.fit with an Engine")
    if trainer.precision not in PRECISIONS:
        raise ConfigError(f"PruningModule: precision {trainer.precision!r}; expected one of {', '.join(PRECISIONS)}")
    if trainer.max_epochs is None or trainer.max_epochs < 1 or trainer.max_steps != -1:
        raise ConfigError("PruningModule needs max_epochs, and no max_steps: phases are shares of the whole run")
    return trainer.max_epochs


class PruningModule(lightning.LightningModule):
    """A network that Lightning trains and a method of bayesprune prunes meanwhile.

    ``trainer.fit(module, train_loader, val_loader)`` takes the steps of `bayesprune.fit`: one optimiser, that of the
    settings, which is made anew where a phase asks for it, and no other. Every figure of `EpochRow` is logged at the
    end of an epoch (``nll``, ``params``, ``macs``, ``gates_left``, ...), and of validation batches ``val_loss`` (nats
    per example) and, for classes, ``val_accuracy``; ``trainer.test`` logs the same of its batches. A checkpoint of
    Lightning goes on exactly. One process only; several train by `bayesprune.fit` with an `Engine`.

    Args:
        model: A `BayesianNet`, or for other methods than variational inference any network.
        method: As for `bayesprune.fit`.
        likelihood: As for `bayesprune.fit`.
        loss_on: As for `bayesprune.fit`.
        prune: Whether structures are removed while training.
        settings: As for `bayesprune.fit`.

    Attributes:
        history: The record of the run, of the same form as that of `bayesprune.fit`; empty before the first epoch.

    Raises:
        ConfigError: when training starts, for settings that cannot work, several processes, or batches that Lightning
            is to leave out. Gradients that it is to accumulate or clip are refused by Lightning itself.

    Examples:
        >>> import bayesprune as bp
        >>> net = bp.networks.lenet300((1, 4, 4), 3)
        >>> module = PruningModule(bp.BayesianNet(net, num_data=40))
        >>> lightning.Trainer(max_epochs=20).fit(module, train_loader, val_loader)  # doctest: +SKIP
        >>> module.history
        History(no epoch yet)
    """

    automatic_optimization = False

    def __init__(
        self,
        model: nn.Module,
        *,
        method: str | Method | None = None,
        likelihood: str | Likelihood | None = None,
        loss_on: LossOn = None,
        prune: bool = True,
        settings: Settings | None = None,
    ):
        super().__init__()
        self.model, self.method = model, method if isinstance(method, Method) else get_method(method or "svi")
        self.likelihood = (
            likelihood if likelihood is None or isinstance(likelihood, Likelihood) else get_likelihood(likelihood)
        )
        self.loss_on, self.prune, self.settings = loss_on, prune, settings
        self.history = History()
        self._run: HandedRun | None = None
        self._left: dict[str, Any] | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network gives."""
        return self.model(*inputs, **named)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """What counts the run's steps for Lightning; the weights have an optimiser of their own."""
        return _Steps(self.model.parameters())

    # a run ----------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Make the run, or take it up from Lightning's checkpoint."""
        lit = self.trainer
        loader, epochs = lit.train_dataloader, _epochs(lit)
        assert loader is not None
        given: dict[str, Any] = {name: getattr(self, name) for name in _GIVEN}
        self._run = HandedRun(self.model, loader, epochs, device=self.device, **given)
        run = self._run.trainer
        if lit.num_training_batches != run.steps_per_epoch:
            raise ConfigError(
                f"PruningModule: Lightning takes {lit.num_training_batches} of the {run.steps_per_epoch} batches of an "
                "epoch; leave limit_train_batches and overfit_batches at their defaults"
            )
        left, self._left = self._left, None
        if left is not None and lit.ckpt_path is not None:
            Checkpoint(**left).take_up(run, Path(str(lit.ckpt_path)))
            order(loader, run.epoch)
            fetcher: Any = lit.fit_loop._data_fetcher
            iter(fetcher)  # anew: it has begun to read, in the order of another epoch
        self.history = run.history
        self._run.begin()

    def on_train_epoch_start(self) -> None:
        """Begin an epoch."""
        assert self._run is not None
        self._run.begin_epoch()

    def training_step(self, batch: Any, number: int) -> None:
        """One step; after the last of an epoch decide, and log its figures.

        Args:
            batch: ``(inputs, targets)`` or ``(inputs, targets, weights)``.
            number: Its place in the epoch.
        """
        run = self._run
        assert run is not None
        steps: Any = self.optimizers()
        steps.step(lambda: run.step(batch, number))
        if number + 1 == run.trainer.steps_per_epoch:
            self._log(run.end_epoch())

    def _log(self, row: EpochRow) -> None:
        shown = figures(row)
        self.log_dict({name: shown[name] for name in shown if name not in ("epoch", "val_nll", "val_accuracy")})
        self.history = self._run.trainer.history if self._run is not None else self.history

    def on_train_end(self) -> None:
        """Leave the network as `bayesprune.fit` does."""
        if self._run is not None:
            self._run.end()

    def on_exception(self, exception: BaseException) -> None:
        """Take away what the run has put on the network."""
        if self._run is not None:
            self._run.close()

    # scores ---------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, number: int) -> None:
        """Score a batch as ``val_loss`` and ``val_accuracy``.

        Args:
            batch: As for training.
            number: Its place.
        """
        self._score("val", batch)

    def test_step(self, batch: Any, number: int) -> None:
        """Score a batch as ``test_loss`` and ``test_accuracy``.

        Args:
            batch: As for training.
            number: Its place.
        """
        self._score("test", batch)

    def _score(self, split: str, batch: Any) -> None:
        net = self.model if self._run is None else self._run.trainer.net
        score = evaluate(net, [batch], self.likelihood, loss_on=self.loss_on)
        self.log(f"{split}_loss", score.nll, on_epoch=True, prog_bar=True, batch_size=len(batch[1]))
        if not math.isnan(score.accuracy):
            self.log(f"{split}_accuracy", score.accuracy, on_epoch=True, prog_bar=True, batch_size=len(batch[1]))

    # checkpoints ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the state of the run into Lightning's checkpoint.

        Args:
            checkpoint: Edited in place.

        Raises:
            ConfigError: in the middle of an epoch.
        """
        if self._run is None:
            return
        run = self._run.trainer
        if run.step != run.epoch * run.steps_per_epoch:
            raise ConfigError(
                "PruningModule: checkpoints can be written between epochs alone; leave every_n_train_steps"
            )
        checkpoint[_STATE] = vars(Checkpoint.of(run))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the run until training goes on, when network and data are known.

        Args:
            checkpoint: That of Lightning; its weights may be those of a smaller network, and are put in then.

        Raises:
            ConfigError: where no training follows, in ``validate``, ``test``, ``predict`` and ``load_from_checkpoint``.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            raise ConfigError(
                "PruningModule: a checkpoint is taken up by Trainer.fit(..., ckpt_path=...) alone; to use the network "
                "that training ended with, give no ckpt_path, or keep bp.compact(module.model) by bp.save"
            )
        self._left = checkpoint.get(_STATE)
        checkpoint["state_dict"] = self.state_dict()
