"""Networks that are trained at the same time, in threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import layers
from bayesprune.infer import GateSampler
from bayesprune.layers import Residual
from bayesprune.methods.svi import method
from bayesprune.training import Settings

NETWORKS = 4


def bayesian(seed: int) -> tuple[bp.BayesianNet, DataLoader]:
    torch.manual_seed(seed)
    branches = [Residual(nn.Sequential(nn.Linear(6, 6), nn.ReLU())) for _ in range(3)]
    net = nn.Sequential(layers.Linear(5, 6, gate="unit"), nn.Tanh(), *branches, nn.Linear(6, 2))
    x = torch.randn(60, 5)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=10 + seed)
    return bp.BayesianNet(net, num_data=60, prior=bp.distributions.FlatteningPrior(0.5)), loader


def trained(bnn: bp.BayesianNet, loader: DataLoader) -> Tensor:
    bp.fit(bnn, loader, epochs=4, val_loader=loader, settings=Settings(lr=1e-2, every=1))
    return bnn.predict(loader.dataset.tensors[0], 0).mean


def test_four_networks_in_four_threads_become_what_they_become_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but gates is drawn, here from a seed that does not depend on the order of the threads."""
    monkeypatch.setattr(method, "GateSampler", lambda net, seed: GateSampler(net, net.net[-1].weight.numel()))
    alone = [trained(*bayesian(seed)) for seed in range(NETWORKS)]
    problems, start = [bayesian(seed) for seed in range(NETWORKS)], threading.Barrier(NETWORKS)

    def together(problem: tuple[bp.BayesianNet, DataLoader]) -> Tensor:
        start.wait(20)
        return trained(*problem)

    with ThreadPoolExecutor(NETWORKS) as pool:
        found = list(pool.map(together, problems))
    assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
