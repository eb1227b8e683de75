"""Law 1: doing nothing is a loop of plain PyTorch, to the bit, however that trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.infer import Categorical
from bayesprune.optim.rates import learning_rate, warmup_steps
from bayesprune.training import Settings, evaluate, fit
from tests.training.problems import EXAMPLES, examples, shuffled

EPOCHS, LR = 2, 0.02


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def own_generator() -> DataLoader:
    data = TensorDataset(*examples())
    return DataLoader(data, batch_size=40, shuffle=True, generator=torch.Generator().manual_seed(5))


def two_workers() -> DataLoader:
    return DataLoader(TensorDataset(*examples()), batch_size=40, shuffle=True, num_workers=2)


def by_hand(net: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, smoothing: float) -> list[float]:
    """Train with the schedule of the learning rate that `fit` has; the mean loss of every epoch."""
    steps, step, losses = EPOCHS * len(loader), 0, []
    net.train()
    for _ in range(EPOCHS):
        total = torch.zeros(())
        for x, y in loader:
            optimizer.param_groups[0]["lr"] = LR * learning_rate(step, steps, warmup_steps(steps))
            loss = F.cross_entropy(net(x), y, reduction="none", label_smoothing=smoothing).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(y)
            step += 1
        losses.append(float(total) / EXAMPLES)
    return losses


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, weight_decay=1e-2),
    "momentum": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "Adam": partial(torch.optim.Adam, weight_decay=1e-2),
    "AdamW": torch.optim.AdamW,
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_it_is_a_loop_of_plain_pytorch(optimizer: Callable[..., torch.optim.Optimizer], smoothing: float) -> None:
    verify(shuffled, optimizer, smoothing)


@pytest.mark.parametrize("loader", [own_generator, two_workers])
def test_looking_at_the_first_batch_does_not_shuffle_the_others(loader: Callable[[], DataLoader]) -> None:
    verify(loader, OPTIMIZERS["momentum"], 0.0)


def verify(loader: Callable[[], DataLoader], optimizer: Callable[..., Any], smoothing: float) -> None:
    torch.manual_seed(3)
    net, mine = build(), build()
    mine.load_state_dict(net.state_dict())
    torch.manual_seed(4)
    likelihood, how = Categorical(label_smoothing=smoothing), Settings(lr=LR, optimizer=optimizer)
    history = fit(net, loader(), epochs=EPOCHS, method="none", likelihood=likelihood, settings=how)
    torch.manual_seed(4)
    losses = by_hand(mine, loader(), optimizer(mine.parameters(), lr=LR), smoothing)
    assert [row.nll for row in history.rows] == losses
    expected: dict[str, Tensor] = mine.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())


def test_validation_shuffles_nothing_but_itself() -> None:
    """A validation loader that shuffles takes the random numbers that it needs after an epoch, and no others."""
    torch.manual_seed(3)
    net, mine = build(), build()
    mine.load_state_dict(net.state_dict())
    torch.manual_seed(4)
    how = Settings(lr=LR, optimizer=torch.optim.SGD)
    rows = fit(net, own_generator(), epochs=1, val_loader=shuffled(), method="none", settings=how).rows
    after = torch.get_rng_state()
    torch.manual_seed(4)
    optimizer, loader = torch.optim.SGD(mine.parameters(), lr=LR), own_generator()
    steps = len(loader)
    for step, (x, y) in enumerate(loader):
        optimizer.param_groups[0]["lr"] = LR * learning_rate(step, steps, warmup_steps(steps))
        optimizer.zero_grad()
        F.cross_entropy(mine(x), y).backward()
        optimizer.step()
    assert evaluate(mine, shuffled()).nll == rows[0].val_nll
    assert torch.equal(torch.get_rng_state(), after)
