"""`fit`: train a network, let a method prune it, and leave a record and a checkpoint at every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import file_errors
from bayesprune.checked import whole
from bayesprune.infer import Likelihood
from bayesprune.infer.outputs import LossOn
from bayesprune.methods import Method, get_method
from bayesprune.methods.svi.settings import Settings
from bayesprune.training.batches import Loader
from bayesprune.training.checkpoint import write_checkpoint
from bayesprune.training.checks import check_loader
from bayesprune.training.choices import model_of, settings_of
from bayesprune.training.engine import Engine
from bayesprune.training.history import EpochRow, History
from bayesprune.training.lock import only_process
from bayesprune.training.loggers import EpochLog, Logger
from bayesprune.training.progress import EpochBar, on_terminal
from bayesprune.training.state import Checkpoint
from bayesprune.training.trainer import Trainer
from bayesprune.training.undo import undone_if_broken_off


@checked_arguments
def fit(
    model: nn.Module,
    train_loader: Loader,
    *,
    epochs: int,
    val_loader: Loader | None = None,
    method: str | Method | None = None,
    likelihood: str | Likelihood | None = None,
    loss_on: LossOn = None,
    prune: bool = True,
    settings: Settings | None = None,
    engine: Engine | None = None,
    out: str | Path | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
    loggers: Iterable[Logger] = (),
    progress: bool = True,
    run: str | None = None,
) -> History:
    """Train ``model``, pruning it by a method while it trains; a `BayesianNet` as its gates converge.

    Args:
        model: A `BayesianNet`, or for other methods any network, with gates or without. It is smaller afterwards, and
            so is the module that a `BayesianNet` was built of: ``model.net`` stays the same object, also if the run is
            broken off. Weights whose ``requires_grad`` is False stay as they are (as far as they are not removed):
            with all of them at rest, gates alone are learned.
        train_loader: Batches ``(inputs, targets)`` or ``(inputs, targets, weights)`` of tensors or arrays of numpy,
            first dimension B, gone through once an epoch. Networks that take several inputs get them by position from
            a tuple, by name from a dict: ``((x, z), y)``, ``({"x": x, "z": z}, y)``. Weights, shape ``(B,)``, finite
            and not negative, multiply the negative log-likelihoods of which a batch is the mean; ``num_data`` stays the
            number of examples, so let weights average 1. Floating-point numbers are brought into the dtype of the
            network's weights. A loader without a length has ``num_data`` examples an epoch, in batches as large as its
            first. If it has ``set_epoch``, that is called with the epoch's number (from 0).
        epochs: Length of the run.
        val_loader: Such batches to score after every epoch.
        method: Name of a method, see `bayesprune.methods.NAMES`, or one made with options of its own; variational
            inference by default. ``"none"`` is plain training.
        likelihood: Of a plain network: ``"categorical"`` (the default), ``"gaussian"``, ``"bernoulli"`` or a
            `Likelihood`. N, by which priors are weighed, is then the number of examples in ``train_loader``.
        loss_on: Which output the likelihood sees, where a plain network gives several; see `BayesianNet`.
        prune: Whether structures are removed while training; if not, gates converge all the same and `compact` removes
            them.
        settings: How to train; by default as `recommended` for the network. For other methods than variational
            inference ``lr``, ``optimizer``, which is then called without ``weight_decay``, ``layer_decay`` and
            ``freeze_statistics`` count, and no other field may be set.
        engine: Where and in which number format, and on how many processes; by default where ``model`` is. With several
            processes every one calls `fit`; a ``train_loader`` that does not cut batches for processes itself (as
            those of `data.loaders` do) must give each its own examples, equally many.
        out: Folder for ``checkpoint.pt`` and ``history.csv``, written after every epoch. If it holds a checkpoint of
            the same network and run, training goes on from there and ends with the same numbers as an unbroken run.
        on_epoch: Called with every finished row.
        loggers: Loggers of Lightning or Lightning Fabric, for example for TensorBoard or Weights & Biases: they get the
            settings, every row, and where they take histograms how θ lies. The main process alone logs.
        progress: Whether to show a bar of the epochs on standard error, if that is a terminal.
        run: What tells this run from every other, for example its seed and settings or a name. It is kept in the
            checkpoint, and one that holds another is refused.

    Returns:
        The record of the whole run. Losses are in nats per example.

    Raises:
        ConfigError: for settings that cannot work, and for a model that is none of the method's.
        DataError: for data that do not fit the network, or that are not finite. Targets are looked at in every epoch,
            inputs in the first.
        CheckpointError: if the checkpoint in ``out`` is damaged, or of another network or run.
        FileError: if the checkpoint cannot be written; the last one is then as it was.
        ConfigError: if another process trains in ``out``.
        DeviceMemoryError: if a batch does not fit into memory.
        RankError: if processes no longer hold the same gates.
        NonFiniteLossError: when the loss is no longer finite; names the last good checkpoint. After this, and after
            any other error or Ctrl-C in the middle of an epoch, ``model`` is as that epoch found it (but not where
            processes divide its weights).
    """
    epochs = whole("fit: epochs", epochs)
    if not isinstance(method, Method):
        method = get_method(method or "svi")
    engine = engine or Engine(next((p.device for p in model.parameters()), "cpu"))
    net = model_of(model, method, likelihood, loss_on, train_loader, engine.world_size)
    settings = settings_of(model, method, settings)
    trainer = Trainer(net, train_loader, epochs, prune, settings, engine, method, run, val_loader)
    if val_loader is not None:
        check_loader(net, trainer.outputs, val_loader, "validation")
    path = None if out is None else Path(out) / "checkpoint.pt"
    with ExitStack() as held:
        held.callback(trainer.frozen.thaw)
        if path is not None:
            _begin_in(path, trainer, held)
        shown = None
        if progress and engine.is_main and on_terminal():
            shown = held.enter_context(EpochBar(epochs))
        log = held.enter_context(EpochLog(loggers if engine.is_main else (), trainer))
        trainer.views.install()
        held.callback(trainer.views.remove)
        while trainer.epoch < trainer.epochs:
            with undone_if_broken_off(net, engine):
                row = trainer.run_epoch(path)
            if path is not None:
                state = vars(Checkpoint.of(trainer))
                if engine.is_main:
                    trainer.history.write_csv(path.parent / "history.csv")
                    write_checkpoint(path, state)
            for show in (shown, log, on_epoch):
                if show is not None:
                    show(row)
        trainer.views.bake()
    return trainer.history


def _begin_in(path: Path, trainer: Trainer, held: ExitStack) -> None:
    """Take hold of the folder of a run, and go on from the checkpoint there, if there is one.

    Args:
        path: Where the checkpoint is.
        trainer: The run, edited in place.
        held: Lets the folder go as it is left.
    """
    with file_errors("make the folder", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if trainer.engine.is_main:
        held.enter_context(only_process(path.parent))
    if path.exists():
        Checkpoint.read(path).take_up(trainer, path)
    trainer.engine.barrier()  # no process may write before all have read
