"""Random networks whose dimensions all have one size, so that a wrong axis shows in values, not in shapes."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import GateError, TraceError
from bayesprune.graph import check_gates, gates_of
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import compact
from tests.graph.test_axes import Apply, some_off
from tests.pruning.verify import randomise_statistics

SIZE = 4


def random_part(rng: random.Random, rank: int) -> nn.Module:
    norm, conv = (nn.BatchNorm2d, nn.Conv2d) if rank == 4 else (nn.BatchNorm1d, nn.Conv1d)
    build = rng.choice([
        lambda: Gate(SIZE, dim=rng.choice([1, -1, 2, -2])), lambda: Gate(SIZE, dim=rng.choice([1, -1])),
        lambda: nn.Linear(SIZE, SIZE), lambda: layers.Linear(SIZE, SIZE, gate="unit"), nn.ReLU, nn.Tanh,
        lambda: nn.PReLU(SIZE), lambda: norm(SIZE), lambda: Apply(lambda x: x.transpose(1, -1)),
        lambda: Apply(lambda x: x * x), lambda: Residual(nn.Linear(SIZE, SIZE)), lambda: conv(SIZE, SIZE, 1),
    ])  # fmt: skip
    return build()


def random_net(seed: int) -> tuple[nn.Module, Tensor]:
    """A network and an input; not every one of them fits the other."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    rank = rng.choice([2, 3, 3, 4])
    parts = [random_part(rng, rank) for _ in range(rng.randint(2, 6))]
    ends = {
        "flattened": [nn.Flatten(), nn.Linear(SIZE ** (rank - 1), 2)],
        "as it is": [nn.Linear(SIZE, 2)],
        "summed": [Apply(lambda x: x.sum(1)), nn.Linear(SIZE, 2)],
        "averaged": [Apply(lambda x: x.mean(-1)), nn.Linear(SIZE, 2)],
    }
    net = nn.Sequential(*parts, *ends[rng.choice(list(ends))])
    randomise_statistics(net, seed)
    return net.double().eval(), torch.randn(3, *[SIZE] * (rank - 1), dtype=torch.float64)


@torch.no_grad()
def outcome(net: nn.Module, x: Tensor, example: Tensor | None, seed: int) -> str:
    """Refused when it is checked, refused when it is called, or exact; nothing else."""
    for gate in gates_of(net).values():
        gate.rank = None
    try:
        check_gates(net, example_input=example)
    except GateError:
        return "refused"
    except TraceError as error:  # a size that does not fit a rank that was assumed
        assert example is None and "pass example_input" in str(error)
        return "refused"
    some_off(net, seed)
    try:
        expected = net(x)
    except GateError as error:
        assert example is None and "pass example_input" in str(error)
        return "refused late"
    torch.testing.assert_close(compact(net, example_input=example)(x), expected, rtol=0, atol=1e-10)
    return "exact"


@pytest.mark.parametrize(
    "seeds", [range(50), pytest.param(range(50, 500), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_exact_or_refused(seeds: range) -> None:
    found: dict[tuple[bool, str], int] = {}
    for seed in seeds:
        net, x = random_net(seed)
        try:
            net(x)
        except (RuntimeError, ValueError):  # the parts do not fit one another
            continue
        for example in (None, x):
            key = example is not None, outcome(net, x, example, seed)
            found[key] = found.get(key, 0) + 1
    assert found[True, "exact"] > len(seeds) // 6 and found[False, "exact"] > len(seeds) // 8
    assert found[False, "refused late"] > 0 and found[True, "exact"] > found[False, "exact"]
