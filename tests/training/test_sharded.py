"""Two processes that divide the weights among them (FSDP) equal one that holds them all; on the CPU, by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bayesprune.training.engine import Engine
from tests.training import sharded_worker, worker

ROOT = Path(__file__).parents[2]
PROCESSES = [0, 1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(torch.cpu.Stream, "record_event"), reason="this version of PyTorch divides weights on GPUs alone"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes left what they computed."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.training.sharded_worker", str(folder)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in PROCESSES]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The runs of one process."""
    return {name: sharded_worker.run(Engine(), name) for name in sharded_worker.NETWORKS}


def assert_same(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


def assert_same_run(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Removals, θ after every epoch, final weights, and in every row losses (slab and prices included) and costs."""
    assert found["removals"] == expected["removals"]
    assert found["norms"] == pytest.approx(expected["norms"], abs=1e-5)
    assert_same(found["weights"], expected["weights"], 1e-5)
    assert found["thetas"].keys() == expected["thetas"].keys()
    for name, thetas in expected["thetas"].items():
        torch.testing.assert_close(torch.stack(found["thetas"][name]), torch.stack(thetas), rtol=0, atol=1e-5)
    assert len(found["rows"]) == len(expected["rows"]) == sharded_worker.EPOCHS
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert row == pytest.approx(other, abs=1e-5, nan_ok=True)
    assert found["kinds"] == expected["kinds"], "the network is left in its own classes"
    assert found["modes"] == expected["modes"]


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("pattern", worker.PATTERNS)
def test_gradients_are_those_of_the_whole_batch(results, rank: int, pattern: str) -> None:
    """Of the weights as process 0 has them; branches that were left out get no gradient at all."""
    net = worker.network()
    worker.mean_loss(net, net, *worker.batch(), worker.gates(pattern)).backward()
    expected = sharded_worker.gradients(net)
    left_out = [name for name, gradient in expected.items() if gradient is None]
    assert len(left_out) == 2 * worker.PATTERNS[pattern].count(0.0)
    assert_same(results[rank]["weight_gradients"][pattern], expected)


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("estimator", sharded_worker.ESTIMATORS)
def test_gradients_of_a_network_with_tied_weights(results, rank: int, estimator: str) -> None:
    """Shared and free weights, normalisation, dropout, nested branches; ``paired`` resumes passes as it always does."""
    net = sharded_worker.tied()
    theta, loss = sharded_worker.estimate(net, *worker.batch(), estimator)
    found = results[rank]["theta_gradients"][estimator]
    torch.testing.assert_close(found[0], theta, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], loss, rtol=0, atol=1e-12)
    assert_same(found[2], sharded_worker.gradients(net))
    assert_same(found[3], dict(net.named_buffers()))
    assert found[4] == [behind is not None for behind in net.resumption.behind] and any(found[4])
    assert found[5] == net.branch_evaluations


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("name", worker.OPTIMIZERS)
def test_steps_before_and_after_a_removal(results, rank: int, name: str) -> None:
    found = results[rank]["training"][name]
    expected = sharded_worker.steps(Engine(), name, *worker.batch(), worker.SEQUENCE)
    assert_same(found["weights"], expected["weights"])
    assert found["penalty"] == pytest.approx(expected["penalty"], abs=1e-12)
    assert len(found["state"]) == len(expected["state"]) > 0
    for value, other in zip(found["state"], expected["state"], strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-12)
    assert expected["held"] == [123, 123, 103, 103]
    assert found["held"] == [[64, 64, 54, 54], [59, 59, 49, 49]][rank], "of three rows process 0 has two"


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("name", sharded_worker.NETWORKS)
def test_a_run_equals_that_of_one_process(results, alone, rank: int, name: str) -> None:
    expected = alone[name]
    assert len(expected["removals"]) >= 2
    assert_same_run(results[rank]["fits"][name], expected)


@pytest.mark.parametrize("name", sharded_worker.NETWORKS)
def test_between_pauses_a_process_holds_its_part_alone(results, name: str) -> None:
    """In every batch the two parts, about equal, add up to the network as it then is, which becomes smaller."""
    held = [result["fits"][name]["held"] for result in results]
    assert len(held[0]) == 12 * sharded_worker.EPOCHS
    assert held[0][-1][1] < held[0][0][1]
    for (part, both), (other, same) in zip(*held, strict=True):
        assert part + other == both == same
        assert 0 < other <= part < 0.65 * both, "each layer may have one row more on process 0"


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("second", ["whole", "divided"])
def test_a_checkpoint_serves_both_strategies(results, alone, rank: int, second: str) -> None:
    assert_same_run(results[rank]["resumed"][second], alone["branches"])


def test_a_checkpoint_of_two_processes_serves_one(folder: Path, alone) -> None:
    with pytest.warns(UserWarning, match="was written by 2 processes and is taken up by 1"):
        found = sharded_worker.run(Engine(), "branches", folder / "for one process")
    assert_same_run(found, alone["branches"])


@pytest.mark.parametrize("rank", PROCESSES)
def test_a_weight_that_cannot_be_divided(results, rank: int) -> None:
    expected = "cannot divide the weight '1.factor', which is a single number without dimensions; give it the shape"
    assert expected in results[rank]["refused"]


def test_one_process_divides_nothing() -> None:
    engine, net = Engine(strategy="fsdp"), worker.network()
    optimizer = torch.optim.SGD(net.weights().values())
    plain, weights = net.net, net.weights()
    with engine.sharded(net, optimizer), engine.whole(), engine.whole(read_only=True):
        assert net.net is plain and engine.wrap(net) is net
        assert all(p is weights[name] for name, p in net.weights().items())
    assert not engine.divides
