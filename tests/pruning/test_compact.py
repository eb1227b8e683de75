from __future__ import annotations

import pytest
import torch
from tests.pruning.nets import NETS
from tests.pruning.random_nets import random_network
from tests.pruning.verify import draw_thetas, randomise_statistics, verify_compaction


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", NETS)
def test_outputs_stay(name: str, seed: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    build, shape = NETS[name]
    net = build()
    draw_thetas(net, seed)
    randomise_statistics(net, seed)
    verify_compaction(net, torch.randn(3, *shape), dtype)


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    net, shape = random_network(seed)
    draw_thetas(net, seed, keep=0.55)
    randomise_statistics(net, seed)
    verify_compaction(net, torch.randn(2, *shape))
