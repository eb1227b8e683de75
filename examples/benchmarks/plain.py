"""Training without the library: a plain PyTorch loop, with the learning rates that `fit` has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.data import EpochLoader
from bayesprune.optim.rates import learning_rate, second_rate, warmup_steps


def train_plain(
    net: nn.Module,
    loader: EpochLoader,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    again: float | None = None,
) -> nn.Module:
    """Train ``net`` in place.

    Args:
        net: The network.
        loader: Training batches.
        epochs: Length of the run.
        optimizer: Of its parameters, at the peak learning rate.
        loss_of: The loss of outputs and labels.
        again: After which share of the run the learning rate rises a second time, by an optimiser that forgets what it
            kept, as in self-pruning runs; ``None`` for never.

    Returns:
        The network, in eval mode.
    """
    net.train()
    steps, peak = epochs * len(loader), optimizer.param_groups[0]["lr"]
    second = steps if again is None else round(again * steps)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for number, (x, y) in enumerate(loader):
            step = epoch * len(loader) + number
            if step == second:
                optimizer.state.clear()
            begun, rate_of = (second, second_rate) if step >= second else (0, learning_rate)
            rate = peak * rate_of(step - begun, steps - begun, warmup_steps(steps - begun))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()
