"""Runs of which everything is known, without training: what pages are made of in tests."""

import torch
from torch import Tensor

from bayesprune.reports import RunReport
from bayesprune.training import EpochRow, History
from bayesprune.types import Removal

SIZES = {"1": 12, "2": 30, "block": 1, "branch": 1}
"""Gates on 1 × 3 × 4 pixels, on units, and on two branches."""
EPOCHS = 5


def row(epoch: int, seed: int) -> EpochRow:
    share = 1 - 0.1 * epoch
    accuracy = 0.5 + 0.08 * epoch + 0.01 * seed
    return EpochRow(
        epoch, "settle", 1 / epoch, 0.9 / epoch, 1.0, accuracy, 40 - 5 * epoch, 0.9, int(1000 * share),
        int(5000 * share), 1.5, nu=0.1 * epoch, expected=share,
    )  # fmt: skip


def path(size: int, generator: torch.Generator) -> list[Tensor]:
    """θ that go to 0 or 1, all by the end."""
    to = (torch.rand(size, generator=generator) > 0.5).float()
    to[0] = 1
    return [0.9 + (to - 0.9) * epoch / EPOCHS for epoch in range(EPOCHS + 1)]


def history(seed: int = 0) -> History:
    generator = torch.Generator().manual_seed(seed)
    thetas = {name: path(size, generator) for name, size in SIZES.items()}
    evidence, removals = {}, []
    for name, theta in thetas.items():
        net_cost = torch.where(theta[-1] > 0.5, -0.03, 0.02) * torch.rand(SIZES[name], generator=generator)
        evidence[name] = torch.stack([torch.full_like(net_cost, 0.01), net_cost, torch.full_like(net_cost, 0.004)], 1)
        gone = (theta[-1] == 0).nonzero()[:, 0].tolist()
        removals += [Removal(40 + k, name, k, 0.0, float(net_cost[k]), 0.5) for k in gone]
    rows = [row(epoch, seed) for epoch in range(1, EPOCHS + 1)]
    return History(rows, removals, thetas, evidence=evidence)


def told(name: str = "mine", seed: int = 0) -> RunReport:
    bins = [{"count": 40, "confidence": 0.6, "accuracy": 0.7}, {"count": 60, "confidence": 0.95, "accuracy": 0.9}]
    result = {
        **{"accuracy": 0.875, "nll": 0.4, "brier": 0.2, "ece": 0.0625, "gates_left": 20, "budget_met": True},
        **{"params": 500, "macs": 2400, "dense_params": 1000, "dense_macs": 5000, "reliability": bins},
    }
    return RunReport(
        name=name,
        history=history(seed),
        settings={"net": "small", "seed": seed, "budget": "macs=0.5", "weights": None},
        result=result,
        folder=f"runs/{name}",
        saved={gate: torch.full((size, 2), 7.0) for gate, size in SIZES.items()},
        inputs=("1", (1, 3, 4)),
        num_data=100,
        latency=(2e-3, 1.5e-3),
        filters=torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
    )
