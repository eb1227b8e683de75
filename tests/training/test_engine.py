"""The engine in one process: number formats and memory layout."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bayesprune.infer import BatchObjective, get_estimator
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training.engine import Engine
from tests.training.images import convolutional, gradients, images


def test_one_process_is_itself() -> None:
    engine, net, value = Engine(), convolutional(), torch.ones(3)
    assert (engine.rank, engine.world_size, engine.is_main) == (0, 1, True)
    assert engine.wrap(net) is net
    assert engine.mean(value) is value
    assert engine.gather("a") == ["a"] and engine.broadcast("a") == "a"
    engine.agree("anything", value)
    engine.barrier()
    assert not torch.distributed.is_initialized()
    described = engine.describe()
    assert described.pop("device_name")
    assert described == {"device": "cpu", "precision": "float32", "compiled": False, "processes": 1}


def test_statistics_of_one_process_stay() -> None:
    net = nn.BatchNorm1d(3)
    net(torch.randn(8, 3))
    before = copy.deepcopy(net.state_dict())
    Engine().average_statistics(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_importing_bayesprune_does_not_import_fabric() -> None:
    """It takes seconds and wraps torch.compile."""
    code = "import sys, bayesprune, bayesprune.training.engine; assert 'lightning_fabric' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_bfloat16_is_for_products_alone() -> None:
    """Products are computed in bfloat16, 8 bits of mantissa; weights, θ and all gradients are float32."""
    (x, y), plain, mixed = images(), Engine(), Engine(precision="bf16")
    found = {}
    for engine in (plain, mixed):
        net = convolutional()
        engine.place(net)
        seen = []
        net.net[0].register_forward_hook(lambda module, args, output, seen=seen: seen.append(output.dtype))
        objective = BatchObjective(net, engine.input(x), y, module=engine.wrap(net))
        with engine.autocast():
            value = get_estimator("straight_through")(objective, net.theta, torch.ones(6, net.num_gates), net.price)
        engine.backward(value)
        assert net.theta.dtype == net.theta.grad.dtype == value.dtype == torch.float32
        assert {p.dtype for p in net.weights().values()} == {torch.float32}
        found[engine.precision] = torch.cat([net.theta.grad, *(p.grad.flatten() for p in net.weights().values())])
        assert seen == [torch.float32 if engine is plain else torch.bfloat16]
    assert found["bf16"].dtype == torch.float32
    error = (found["bf16"] - found["float32"]).norm() / found["float32"].norm()
    assert 1e-5 < error < 2**-5


@pytest.fixture
def channels_last() -> Engine:
    """An engine that lays tensors out as it does on CUDA."""
    engine = Engine()
    engine.memory_format = torch.channels_last
    return engine


def test_placing_keeps_the_network(channels_last: Engine) -> None:
    net, (x, _) = convolutional(), images()
    before, outputs, theta = dict(net.named_parameters()), net.eval()(x), net.theta
    channels_last.place(net)
    assert net.net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.net[0].weight.is_contiguous()
    assert all(p is before[name] for name, p in net.named_parameters())
    assert net.theta is theta
    with torch.no_grad():
        net.theta[0] = 0.125
    assert any(gate.theta[0] == 0.125 for gate in net.gates())
    laid_out = channels_last.input(x)
    assert laid_out.is_contiguous(memory_format=torch.channels_last) and torch.equal(laid_out, x)
    assert torch.equal(channels_last.input(x[0, 0]), x[0, 0])
    with torch.no_grad():
        net.theta[0] = 0.9
    torch.testing.assert_close(net(laid_out), outputs, rtol=0, atol=1e-6)


OPTIMIZERS = [
    partial(torch.optim.Adam, lr=0.1, fused=True),
    partial(torch.optim.Adam, lr=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["plain", "channels_last"])
def test_layout_does_not_change_the_steps(make, engine: str, channels_last: Engine) -> None:
    """Two steps, a removal, two steps: a fused optimiser would mix up entries that lie in another order."""
    engines = {"plain": Engine(), "channels_last": channels_last}
    expected, found = (trained(engines[name], make) for name in ("plain", engine))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)


def trained(engine: Engine, make: Callable[..., torch.optim.Optimizer]) -> dict[str, Tensor]:
    net, (x, y) = convolutional(), images()
    engine.place(net)
    optimizer = make(net.weights().values())
    for removal in (True, False):
        for _ in range(2):
            gradients(engine, net, x, y)
            optimizer.step()
        if removal:
            smaller, index = shrink(net.net, {"1": torch.arange(5) == 2, "5": torch.tensor([True])})
            old = net.weights()
            net.replace(smaller, kept_gates(net.net, index))
            remap_optimizer(optimizer, old, net.weights(), index)
            engine.place(net, optimizer)
    return {name: p.detach() for name, p in net.weights().items()}


@pytest.mark.gpu
def test_cuda_trains_as_the_cpu_does() -> None:
    found = trained(Engine("cuda"), OPTIMIZERS[0])
    for name, value in trained(Engine(), OPTIMIZERS[0]).items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=0, atol=1e-2, msg=name)
