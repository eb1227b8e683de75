"""Two processes that share a batch equal one that has it all; started once, by torchrun, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training import worker

ROOT = Path(__file__).parents[2]
PROCESSES = [0, 1]


def start(module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes, which leave their results in ``folder``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", module, str(folder)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the processes left, in the order of their ranks."""
    folder = tmp_path_factory.mktemp("processes")
    done = start("tests.training.worker", folder)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in PROCESSES]


def assert_same(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("shares", worker.SHARES)
@pytest.mark.parametrize("pattern", worker.PATTERNS)
def test_gradients_are_those_of_the_whole_batch(results, rank: int, shares: str, pattern: str) -> None:
    """Also where the processes hold unequally many examples; branches that were left out get no gradient at all."""
    net = worker.network()
    worker.mean_loss(net, net, *worker.batch(), worker.gates(pattern)).backward()
    expected = worker.gradients(net)
    left_out = [name for name, gradient in expected.items() if gradient is None and "body" in name]
    assert len(left_out) == 2 * worker.PATTERNS[pattern].count(0.0)
    assert_same(results[rank]["weight_gradients"][shares, pattern], expected)


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("name", worker.OPTIMIZERS)
def test_optimisers_pass_over_branches_that_were_left_out(results, rank: int, name: str) -> None:
    """Momentum, moments and weight decay move nothing in a step that did not use it, as in one process."""
    net = worker.network()
    optimizer = worker.OPTIMIZERS[name](net.weights().values())
    for pattern in worker.SEQUENCE:
        net.zero_grad()
        worker.mean_loss(net, net, *worker.batch(), worker.gates(pattern)).backward()
        optimizer.step()
    assert_same(results[rank]["training"][name], net.net.state_dict())


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("estimator", ["straight_through", "exact"])
def test_gradients_of_theta(results, rank: int, estimator: str) -> None:
    """`exact` makes 16 passes before the one backward pass. θ stays one vector that the gates share."""
    net = worker.network()
    worker.estimate(net, net, *worker.batch(), estimator).backward()
    assert net.theta.grad is not None
    theta, weights, shared = results[rank]["theta_gradients"][estimator]
    torch.testing.assert_close(theta, net.theta.grad, rtol=0, atol=1e-12)
    assert_same(weights, worker.gradients(net))
    assert shared == pytest.approx([0.9, 0.25, 0.9, 0.9])


@pytest.mark.parametrize("rank", PROCESSES)
@pytest.mark.parametrize("pattern", worker.PATTERNS)
def test_gradients_of_normal_weights(results, rank: int, pattern: str) -> None:
    """Means and log scales, pulled by their prior: those of one process with the whole batch, up to 1e-8 of noise."""
    net = worker.quiet()
    worker.mean_loss(net, net, *worker.batch(), worker.gates(pattern)).backward()
    net.add_gradients()
    expected = worker.gradients(net)
    assert sum(value is None for value in expected.values()) == 4 + 4 * worker.PATTERNS[pattern].count(0.0)
    assert_same(results[rank]["normal_weights"]["quiet"][pattern], expected, 1e-6)
    weights = [value for name, value in expected.items() if value is not None and "log" not in name]
    assert min(float(value.abs().max()) for value in weights) > 1e-3


def test_processes_with_noise_of_their_own_keep_the_same_weights(results) -> None:
    """To the bit, through steps in which log σ rests and after a removal."""
    first, second = (result["normal_weights"] for result in results)
    assert not torch.equal(first["noise"], second["noise"])
    assert first["end"].keys() == second["end"].keys() and "4.body.0.weight" not in first["end"]
    assert all(torch.equal(value, second["end"][key]) for key, value in first["end"].items())
    assert torch.equal(first["price"], second["price"])
    moved = {key for key, value in first["end"].items() if not torch.equal(value, first["start"][key])}
    assert moved == {key for key in first["end"] if "theta" not in key}


@pytest.mark.parametrize("rank", PROCESSES)
def test_wrapped_again_after_a_removal(results, rank: int) -> None:
    found = results[rank]["wrapped_again"]
    net, whole = worker.network(), worker.gates("two on")
    worker.mean_loss(net, net, *worker.batch(), whole).backward()
    assert_same(found["same network"], worker.gradients(net))
    net = worker.without_last(worker.network())
    worker.mean_loss(net, net, *worker.batch(), whole[:, :3]).backward()
    assert_same(found["smaller network"], worker.gradients(net))
    assert (found["left"], found["alive"]) == (0, 1)


def test_running_statistics_are_averaged(results) -> None:
    """Of equal shares the mean of the means is the mean of the batch; each of two passes takes a tenth of it up."""
    own, averaged = ([result["statistics"][key] for result in results] for key in ("own", "averaged"))
    assert averaged[0].keys() == averaged[1].keys()
    for name in averaged[0]:
        expected = (own[0][name] + own[1][name]) / 2
        for found in averaged:
            torch.testing.assert_close(found[name].double(), expected.double(), rtol=0, atol=1e-12, msg=name)
    net, (x, _) = worker.network(norm=True), worker.batch()
    with torch.no_grad():
        net(x, worker.gates("all on"))
        net(x.square(), worker.gates("all on"))
    norm = net.net[0][1]
    torch.testing.assert_close(averaged[0]["net.0.1.running_mean"], norm.running_mean, rtol=0, atol=1e-12)
    assert averaged[0]["net.0.1.num_batches_tracked"] == norm.num_batches_tracked == 2


def test_wrapping_does_not_hide_that_theta_differs(results) -> None:
    """Weights start as process 0 has them; θ is the loop's to compare."""
    assert [result["statistics"]["theta"] for result in results] == [[0.5] * 4, [0.625] * 4]


@pytest.mark.parametrize("rank", PROCESSES)
def test_processes_that_disagree_are_stopped(results, rank: int) -> None:
    agreed, *messages = results[rank]["disagreement"]
    assert agreed == "agreed"
    assert len(messages) == 3
    for what, message in zip(("the bits", "the shape", "the dtype"), messages, strict=True):
        assert message.startswith(f"the 2 processes disagree about {what}: 1 differs from 0. Every process must build")


@pytest.mark.parametrize("rank", PROCESSES)
def test_what_processes_tell_each_other(results, rank: int) -> None:
    found = results[rank]["exchanged"]
    own = [torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])]
    assert found["mean"].tolist() == [1.5, 3.0]
    assert torch.equal(found["own"], own[rank])
    assert [entry["rank"] for entry in found["gather"]] == [0, 1]
    assert all(torch.equal(entry["own"], value) for entry, value in zip(found["gather"], own, strict=True))
    assert found["broadcast"] == ("from", 0)
    assert found["describe"]["processes"] == 2


@pytest.mark.parametrize("rank", PROCESSES)
def test_compiled_branches_in_several_processes(results, rank: int) -> None:
    net = worker.network()
    worker.mean_loss(net, net, *worker.batch(), worker.gates("two on")).backward()
    assert_same(results[rank]["compiled"]["gradients"], worker.gradients(net))
    assert not results[rank]["compiled"]["failed"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names of threads are read from /proc")
def test_the_threads_of_gloo_end_before_the_process_does(tmp_path: Path) -> None:
    """What they still hold when the interpreter is gone aborts the process, now and then."""
    done = start("tests.training.leaving_worker", tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in PROCESSES:
        threads = (tmp_path / f"{rank}.txt").read_text().split("\n")
        assert len(threads) >= 1 and not [name for name in threads if "gloo" in name], threads
