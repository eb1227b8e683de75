"""What only a CUDA device can show: no step waits for it, and it computes what the CPU computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayesprune.data import Augment, loaders
from bayesprune.data.images import Raw, Splits, make_splits
from bayesprune.errors import DataError
from bayesprune.infer import BayesianNet
from bayesprune.methods.protocol import Batch
from bayesprune.methods.svi.method import SVI
from bayesprune.networks import resnet
from bayesprune.pruning import CostPrice, compact
from bayesprune.training import Settings, fit
from bayesprune.training.engine import Engine
from bayesprune.training.trainer import Trainer

pytestmark = pytest.mark.gpu
SGD = Settings(
    lr=0.05,
    every=2,
    price=CostPrice(0.3),
    optimizer=lambda p, lr, weight_decay: torch.optim.SGD(p, lr=lr, weight_decay=weight_decay, momentum=0.9),
)


def images(count: int) -> Splits:
    generator = torch.Generator().manual_seed(0)

    def raw(size: int) -> Raw:
        pixels = torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator)
        return Raw(pixels, torch.arange(size) % 4)

    return make_splits("noise", raw(count), raw(64), 4)


def network(count: int, slab: str = "point") -> BayesianNet:
    torch.manual_seed(1)
    return BayesianNet(resnet(14, (3, 16, 16), 4, width=8), num_data=count, weight_precision=0.1, slab=slab)


@pytest.mark.parametrize("slab", ["point", "normal"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_step_waits_for_the_device(precision: str, slab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """θ moves at every second step; the copy of it that gates are drawn with arrives some steps later."""
    loader, _ = loaders(images(512), 32, 0, augment=Augment(), device="cuda")
    trainer = Trainer(network(512, slab), loader, 20, True, SGD, Engine("cuda", precision=precision), SVI(SGD))
    monkeypatch.setattr(trainer.method, "watch", lambda *_: None)  # what is looked at now and then
    trainer.net.train()
    trainer.step = trainer.method.schedule.sample_start
    batches = list(loader)

    def steps(count: int) -> None:
        for number, (x, y) in enumerate(batches[:count]):
            trainer.train_step(Batch(x, y, loader.spans[number]))

    steps(16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(16)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_prunes_and_gives_what_the_compacted_network_gives() -> None:
    splits = images(512)
    loader, test = loaders(splits, 32, 0, augment=Augment(), device="cuda")
    net = network(512)
    history = fit(net, loader, epochs=4, val_loader=test, settings=SGD, engine=Engine("cuda"))
    small = compact(net.eval())
    x: Tensor = next(iter(test))[0]
    torch.testing.assert_close(small(x), net.net(x), rtol=1e-4, atol=1e-4)
    assert [row.epoch for row in history.rows] == [1, 2, 3, 4]


def test_first_losses_are_those_of_the_cpu() -> None:
    losses = []
    for device in ("cpu", "cuda"):
        loader, _ = loaders(images(256), 32, 0, device=device)
        trainer = Trainer(network(256), loader, 5, True, SGD, Engine(device), SVI(SGD))
        with torch.no_grad():
            trainer.net.theta.fill_(1.0)
        trainer.method.sampler.synchronize()
        trainer.net.train()
        x, y = next(iter(loader))
        losses.append(float(trainer.train_step(Batch(x, y, loader.spans[0]))))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_labels_on_the_device_that_cannot_be_end_the_epoch_and_not_the_device() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(256, 3, 16, 16, device="cuda"), torch.arange(256, device="cuda") % 4
    epochs = []

    class Loader(list):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)
            self[:] = [
                (part, labels + 90 * (epoch == 1)) for part, labels in zip(x.split(64), y.split(64), strict=True)
            ]

    net, kept = network(256), {}
    with pytest.raises(DataError, match="held targets that the likelihood does not take"):
        fit(
            net, Loader([(x, y)] * 4), epochs=3, settings=SGD, engine=Engine("cuda"),
            on_epoch=lambda row: kept.update({name: t.clone() for name, t in net.state_dict().items()}),
        )  # fmt: skip
    assert epochs == [0, 1]
    assert all(torch.equal(t, kept[name]) for name, t in net.state_dict().items())
