"""Runs under a budget, and a clock that is no clock."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesprune.graph import trace
from bayesprune.infer import BayesianNet
from bayesprune.methods.svi.budget import Budget
from bayesprune.pruning import compact, cost
from bayesprune.training import History, Settings, fit
from tests.training.problems import Batches, examples

SCHEDULE = {"checks_per_epoch": 3}
X = examples(1)[0]


def trained(net: BayesianNet, budget: str, epochs: int = 12, x: Tensor | None = None, **options) -> History:
    mine, y = examples()
    settings = Settings(lr=0.02, every=1, budget=Budget.parse(budget), schedule=SCHEDULE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ structures had to be switched off")
        warnings.filterwarnings("ignore", "every structure of")
        return fit(net, Batches(mine if x is None else x, y), epochs=epochs, settings=settings, **options)


def relative(net: BayesianNet, dense: nn.Module, measure: str, x: Tensor) -> float:
    return getattr(cost(compact(net), x), measure) / getattr(cost(dense, x), measure)


class Timed:
    """Seconds of every operation as if from a clock: a multiple of its parameters, the same whenever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, nets: Sequence[nn.Module], example: Tensor) -> list[list[float]]:
        self.asked += 1
        return [self.of(net) for net in nets]

    def of(self, net: nn.Module) -> list[float]:
        with torch.no_grad():
            traced = trace(net)
        calls = [traced.module(node) for node in traced.graph.nodes if node.op.startswith("call")]
        return [1e-6 * sum(p.numel() for p in m.parameters()) if isinstance(m, nn.Linear) else 0.0 for m in calls]
