"""Batches as users have them, and networks of several inputs and outputs, for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.training import Settings, fit
from tests.training.problems import Batches, bayesian, examples, units

QUICK = {"sample_from": 0.1, "settle_from": 0.4, "fine_tune_from": 0.8}


class Mapped:
    """The plain batches, each as a function gives it."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], from_epoch: int = 0):
        self.function, self.from_epoch, self.plain = function, from_epoch, Batches(*examples())
        self.set_epoch = self.plain.set_epoch

    def __len__(self) -> int:
        return len(self.plain)

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.plain:
            yield self.function(x, y) if self.plain.epoch >= self.from_epoch else (x, y)


class TwoInputs(nn.Module):
    """`units` of the inputs' two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = units()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layers(torch.cat([left, right], 1))


class TwoOutputs(nn.Module):
    """`units`, whose outputs are among others."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layers, self.form = units(), form

    def forward(self, x: Tensor) -> Any:
        logits = self.layers(x)
        return (x, logits) if self.form == "tuple" else {"logits": logits, "inputs": x}


def trained(loader: Any, net: Callable[[], nn.Module] = units, **how: Any) -> tuple[list[float], list[Tensor]]:
    """Losses of three epochs and all that was learned."""
    torch.manual_seed(0)
    bnn = bayesian(net(), 0.5, **how)
    torch.manual_seed(1)
    history = fit(bnn, loader, epochs=3, val_loader=loader, settings=Settings(lr=0.02, schedule=QUICK))
    return [row.val_nll for row in history.rows], [*bnn.trained().values(), bnn.theta]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :3], x[:, 3:]
