"""Training with one gate in several places: structures go from all of them, and runs resume bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.layers import Gate, Residual
from bayesprune.pruning import CostPrice
from bayesprune.training import Settings
from bayesprune.training.cuts import _structure_norms
from tests.training.problems import Batches, examples
from tests.training.test_checkpoints import verify_resumed

WIDTH = 5


def stream() -> nn.Module:
    """A residual stream of five channels, all of whose writers carry one gate."""
    wide = Gate(WIDTH, dim=-1)

    def block() -> Residual:
        return Residual(
            nn.Sequential(layers.Linear(WIDTH, 3, gate="unit"), nn.ReLU(), layers.Linear(3, WIDTH, gate=wide))
        )

    return nn.Sequential(layers.Linear(8, WIDTH, gate=wide), nn.ReLU(), block(), block(), nn.Linear(WIDTH, 2))


def together() -> nn.Module:
    """Branches that go together in pairs, the first pair holding units that a later layer shares."""
    gates = [Gate(1, per_batch=True) for _ in range(2)]
    units = Gate(4, dim=-1)
    bodies = [nn.Sequential(layers.Linear(4, 4, gate=units), nn.ReLU(), nn.Linear(4, 4)) for _ in range(4)]
    blocks = [Residual(body, gate=gates[i // 2]) for i, body in enumerate(bodies)]
    return nn.Sequential(nn.Linear(8, 4), *blocks, layers.Linear(4, 4, gate=units), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(("make", "options"), [(stream, {}), (together, {"price": CostPrice(0.1)})])
def test_a_run_that_removes_them_resumes_bit_for_bit(make, options: dict, tmp_path: Path) -> None:
    history = verify_resumed(make, lambda: Batches(*examples()), 8.0, tmp_path, [3], **options)
    assert {removal.gate for removal in history.removals} & {"0", "1.body.0", "1"}


@pytest.mark.filterwarnings("ignore:every structure of")  # of a branch that is of no use
def test_channels_of_a_stream_go_while_it_is_trained() -> None:
    torch.manual_seed(0)
    bnn = bp.BayesianNet(stream(), num_data=480)
    history = bp.fit(bnn, Batches(*examples()), epochs=6, settings=Settings(lr=0.02, every=1, price=CostPrice(0.03)))
    left = len(bnn.gate_probs()["0"])
    gone = [removal for removal in history.removals if removal.gate == "0"]
    assert len(gone) == WIDTH - left > 0 and all(removal.weight_norm > 0 for removal in gone)
    first, second = bnn.net[0], bnn.net[-1]
    assert first.out_features == second.in_features == left
    for block in (bnn.net[2], bnn.net[3]):
        if isinstance(block, Residual):
            assert block.body[0].in_features == block.body[2].out_features == left
            assert block.body[2].gate is first.gate
    x = examples(20)[0]
    torch.testing.assert_close(bp.compact(bnn)(x), bnn.eval()(x))


def test_the_norm_of_a_structure_is_that_of_all_its_rows() -> None:
    wide = Gate(2, dim=-1)
    a, b = layers.Linear(2, 2, gate=wide), layers.Linear(1, 2, gate=wide)
    with torch.no_grad():
        a.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        b.weight.copy_(torch.tensor([[4.0], [0.0]]))
    assert _structure_norms([a, b], 2).tolist() == [5.0, 1.0]
    assert _structure_norms([], 3).tolist() == [0.0] * 3
