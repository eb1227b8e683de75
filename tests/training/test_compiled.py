"""Branches that are compiled train as they are written."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training.engine import Engine
from tests.training.images import convolutional, gradients, images, loss

COMPILER_NOISE = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Let torch.compile only follow the code and count the graphs that it finds, which is quick."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=counter))
    return counter


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@COMPILER_NOISE
def test_compiled_branches_share_their_code(counter: CompileCounterWithBackend) -> None:
    engine, net, twin, (x, y) = Engine(compile=True), convolutional(), convolutional(), images()
    engine.place(net)
    assert_same(gradients(engine, net, x, y), gradients(Engine(), twin, x, y))
    assert counter.frame_count == 1, "three bodies of one form are compiled once"
    assert_same(gradients(engine, net, x[:4], y[:4]), gradients(Engine(), twin, x[:4], y[:4]))
    assert counter.frame_count == 1, "a smaller batch is computed as written"
    with torch.no_grad():
        torch.testing.assert_close(net(x), twin(x))
    smaller, index = shrink(net.net, {"4": torch.tensor([True])})
    net.replace(smaller, kept_gates(net.net, index))
    assert [block.run for block in net.net.modules() if isinstance(block, Residual)] == [None, None]
    engine.place(net)
    off = torch.ones(1, twin.num_gates)
    off[0, 0] = 0
    twin.zero_grad()
    loss(Engine(), twin, x, y, off).backward()
    expected = {name: p.grad for name, p in twin.weights().items() if p.grad is not None}
    assert_same(gradients(engine, net, x, y), expected)
    assert counter.frame_count == 1, "a copied network uses the code that is there"
    assert engine.describe()["compiled"]


@COMPILER_NOISE
def test_compiled_branches_may_be_skipped(counter: CompileCounterWithBackend) -> None:
    engine, net, (x, y) = Engine(compile=True), convolutional(), images()
    engine.place(net)
    xi = torch.ones(1, net.num_gates)
    xi[0, :2] = torch.tensor([0.0, 1.0])
    engine.backward(loss(engine, net, x, y, xi))
    assert [net.net[k].body[0].weight.grad is None for k in (4, 5, 6)] == [True, False, False]
    assert counter.frame_count == 1


@COMPILER_NOISE
def test_more_forms_of_branches_than_the_compiler_allows_by_default(counter: CompileCounterWithBackend) -> None:
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4)) for width in range(1, 13)]
    net = BayesianNet(nn.Sequential(*map(Residual, bodies), nn.Linear(4, 2)), num_data=4)
    twin, x, y = copy.deepcopy(net), torch.randn(4, 4), torch.arange(4) % 2
    engine = Engine(compile=True)
    engine.place(net)
    assert_same(gradients(engine, net, x, y), gradients(Engine(), twin, x, y))
    assert counter.frame_count == 12


@COMPILER_NOISE
def test_compilation_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning; then everything is computed as written."""

    def backend(graph: object, inputs: object) -> None:
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    engine, net, (x, y) = Engine(compile=True), convolutional(), images()
    engine.place(net)
    with pytest.warns(UserWarning, match="compilation failed; .* uncompiled, .* no compiler here") as caught:
        found = gradients(engine, net, x, y)
    assert len(caught) == 1
    assert_same(found, gradients(Engine(), convolutional(), x, y))
    assert_same(gradients(engine, net, x, y), found)
    assert not engine.describe()["compiled"]


def test_a_system_without_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(body: nn.Module, dynamic: bool) -> None:
        raise RuntimeError("torch.compile is not supported on this system")

    monkeypatch.setattr("torch.compile", refuse)
    engine, net = Engine(compile=True), convolutional()
    with pytest.warns(UserWarning, match="compilation failed; .* not supported on this system"):
        engine.place(net)
    engine.place(net)
    assert_same(gradients(engine, net, *images()), gradients(Engine(), convolutional(), *images()))


def test_branches_with_dropout_are_computed_as_written() -> None:
    blocks = [Residual(nn.Sequential(nn.Linear(3, 3), nn.Dropout(rate))) for rate in (0.5, 0.0)]
    Engine(compile=True).place(nn.Sequential(*blocks))
    assert blocks[0].run is None and blocks[1].run is not None
