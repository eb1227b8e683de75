"""What Lightning trains through `PruningModule` is what `fit` trains, to the last bit, also after a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.errors import ConfigError
from bayesprune.training import evaluate

lightning = pytest.importorskip("lightning")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from bayesprune.lightning import PruningModule  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]
DIGITS = bp.data.load("digits", limit=400)
EPOCHS = 4


def bayesian() -> bp.BayesianNet:
    torch.manual_seed(0)
    return bp.BayesianNet(bp.networks.lenet300(DIGITS.input_shape, 10), num_data=len(DIGITS.train))


def loaders() -> tuple[Any, Any]:
    return bp.data.loaders(DIGITS, batch_size=64, seed=0)


def shuffled() -> tuple[Any, Any]:
    """Torch's own loader, whose order comes from the global generator."""
    return torch.utils.data.DataLoader(DIGITS.train, batch_size=64, shuffle=True), loaders()[1]


def trainer(epochs: int = EPOCHS, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(max_epochs=epochs, **{"enable_checkpointing": False, **quiet, **options})


def trained(**options: Any) -> PruningModule:
    module = PruningModule(bayesian(), **options)
    torch.manual_seed(1)
    trainer().fit(module, *loaders())
    return module


def rows(history: bp.training.History) -> list[tuple[float, float, int, int, str]]:
    return [(row.loss, row.nll, row.params, row.gates_left, row.phase) for row in history.rows]


def test_lightning_trains_as_fit_does() -> None:
    bnn = bayesian()
    torch.manual_seed(1)
    history = bp.fit(bnn, loaders()[0], epochs=EPOCHS)
    module = trained()
    assert rows(module.history) == rows(history)
    assert module.history.rows[-1].params < module.history.rows[0].params  # something went
    theirs = dict(module.model.net.named_parameters())
    assert all(torch.equal(theirs[name], value) for name, value in bnn.net.named_parameters())


def test_figures_are_logged_and_validation_is_scored() -> None:
    module = PruningModule(bayesian())
    run = trainer()
    run.fit(module, *loaders())
    last, logged = module.history.rows[-1], run.callback_metrics
    score = evaluate(module.model, loaders()[1])
    assert float(logged["val_accuracy"]) == pytest.approx(score.accuracy)
    assert float(logged["val_loss"]) == pytest.approx(score.nll, rel=1e-5)
    assert float(logged["params"]) == last.params and float(logged["nll"]) == pytest.approx(last.nll)
    assert run.global_step == EPOCHS * len(loaders()[0])


@pytest.mark.parametrize("make", [loaders, shuffled])
def test_a_checkpoint_of_a_pruned_network_goes_on_exactly(tmp_path: Path, make: Any) -> None:
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    module = PruningModule(bayesian())
    torch.manual_seed(1)
    trainer(callbacks=[keep], enable_checkpointing=True).fit(module, *make())
    again = PruningModule(bayesian())
    trainer().fit(again, *make(), ckpt_path=tmp_path / "epoch=2.ckpt")
    assert rows(again.history) == rows(module.history)
    theirs = dict(again.model.net.named_parameters())
    assert all(torch.equal(theirs[name], value) for name, value in module.model.net.named_parameters())


def test_another_method_on_a_plain_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    magnitude = bp.methods.get_method("magnitude", sparsity=0.5)
    module = PruningModule(net, method=magnitude)
    trainer().fit(module, *loaders())
    weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    masked = sum(int((weight == 0).sum()) for weight in weights)
    assert masked == module.history.rows[-1].masked == pytest.approx(0.5 * sum(map(torch.numel, weights)), abs=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_epochs": -1, "max_steps": 3}, "needs max_epochs"),
        ({"limit_train_batches": 2}, "takes 2 of the 7 batches"),
        ({"precision": "64-true"}, "precision"),
    ],
)
def test_what_would_change_the_steps_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trainer(**{"epochs": options.pop("max_epochs", EPOCHS), **options}).fit(PruningModule(bayesian()), *loaders())


def test_no_checkpoint_within_an_epoch(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=2)
    with pytest.raises(ConfigError, match="between epochs alone"):
        trainer(callbacks=[keep], enable_checkpointing=True).fit(PruningModule(bayesian()), *loaders())


@pytest.mark.parametrize("way", ["validate", "test", "load_from_checkpoint"])
def test_a_checkpoint_that_would_not_be_put_in_is_refused(tmp_path: Path, way: str) -> None:
    run = trainer(1)
    run.fit(PruningModule(bayesian()), *loaders())
    run.save_checkpoint(tmp_path / "run.ckpt")
    module = PruningModule(bayesian())
    with pytest.raises(ConfigError, match=r"by Trainer.fit\(..., ckpt_path=...\) alone"):
        if way == "load_from_checkpoint":
            PruningModule.load_from_checkpoint(tmp_path / "run.ckpt", model=bayesian())
        else:
            getattr(trainer(1), way)(module, loaders()[1], ckpt_path=tmp_path / "run.ckpt")
