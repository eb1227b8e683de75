"""One network in several threads: what one hands in or switches off, another does not see."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.infer import BayesianNet, paired_differences, shared_differences
from bayesprune.layers import Draw, Gate, Residual
from bayesprune.layers.modes import eval_mode
from bayesprune.pruning import compact
from bayesprune.training import evaluate

WAIT = 20
"""Seconds after which a thread that nothing wakes gives up."""


def bayesian(slab: str = "normal") -> tuple[BayesianNet, Tensor]:
    """A network with gates, dropout and a normalisation that stays in eval mode, in training mode otherwise."""
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
    net = nn.Sequential(layers.Linear(4, 6, gate="unit"), nn.Tanh(), Residual(body), nn.Dropout(0.5), nn.Linear(6, 3))
    bnn = BayesianNet(net, num_data=20, slab=slab).train()
    body[1].eval()
    return bnn, torch.randn(8, 4)


def modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


@contextmanager
def elsewhere(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Within the context another thread is in the middle of ``work``, which waits for the event at some point."""
    inside, leave = threading.Event(), threading.Event()

    class Leave(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            inside.set()
            return leave.wait(WAIT)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, Leave())
        assert inside.wait(WAIT)
        try:
            yield
        finally:
            leave.set()
        done.result(WAIT)


def outputs(bnn: BayesianNet, x: Tensor) -> list[Tensor]:
    """All that needs no random number."""
    with torch.no_grad():
        found = [bnn.predict(x, 0).mean, bnn.eval().net(x), bnn(x)]
        return (
            found if bnn.weights_posterior.name == "normal" else [*found, bnn(x, torch.zeros(bnn.num_gates), skip=True)]
        )


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_nobody_sees_what_another_thread_draws(slab: str) -> None:
    """Weights, gate values, noise and left-out branches of a thread that stands still in the middle of a pass."""
    bnn, x = bayesian(slab)
    expected = outputs(copy.deepcopy(bnn), x)

    def draw(leave: threading.Event) -> None:
        me = threading.get_ident()

        def stand_still(*_: object) -> None:
            if threading.get_ident() == me:
                leave.wait()

        bnn.net[1].register_forward_hook(stand_still)
        with bnn.drawn_weights():
            bnn(x, torch.ones(8, bnn.num_gates), skip=True)

    def noisy(leave: threading.Event) -> None:
        with bnn.draw.use(torch.zeros(bnn.num_gates), [False], noise=8):
            leave.wait()

    for work in (draw, noisy):
        with elsewhere(work):
            found = outputs(bnn, x)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


TOGETHER = {
    "predict": lambda bnn, x: bnn.predict(x, 2),
    "evaluate": lambda bnn, x: evaluate(bnn, [(x, torch.arange(8) % 3)]),
    "paired_differences": lambda bnn, x: paired_differences(bnn, x, torch.arange(8) % 3, torch.ones(1, bnn.num_gates)),
    "shared_differences": lambda bnn, x: shared_differences(bnn, x, torch.arange(8) % 3, torch.ones(1, bnn.num_gates)),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_modes_are_as_before_whichever_thread_ends_last(name: str) -> None:
    bnn, x = bayesian()
    before = modes(bnn)
    assert True in before and False in before
    expected = copy.deepcopy(bnn).predict(x, 0).mean

    def stay(leave: threading.Event) -> None:
        with eval_mode(bnn):
            leave.wait()
            assert not any(modes(bnn))
            assert torch.equal(bnn.predict(x, 0).mean, expected)

    with elsewhere(stay):
        TOGETHER[name](bnn, x)
        assert not any(modes(bnn))
        part = eval_mode(bnn.net)
        part.__enter__()
    assert modes(bnn.net) != before[1 : 1 + len(modes(bnn.net))] and not any(modes(bnn.net))
    part.__exit__(None, None, None)
    assert modes(bnn) == before
    TOGETHER[name](bnn, x)
    assert modes(bnn) == before


def test_many_predictions_beside_a_thread_that_draws() -> None:
    bnn, x = bayesian()
    before, expected = modes(bnn), copy.deepcopy(bnn).predict(x, 0).mean
    start, stop = threading.Barrier(5), threading.Event()

    def draw() -> None:
        start.wait(WAIT)
        while not stop.is_set():
            with bnn.drawn_weights():
                bnn(x, bnn.sample_gates(x), skip=True)
            bnn.predict(x, 3)

    def predict() -> list[Tensor]:
        start.wait(WAIT)
        return [bnn.predict(x, 0).mean for _ in range(30)]

    with ThreadPoolExecutor(5) as pool:
        drawing = pool.submit(draw)
        predictions = [pool.submit(predict) for _ in range(4)]
        found = [mean for prediction in predictions for mean in prediction.result(WAIT)]
        stop.set()
        drawing.result(WAIT)
    assert all(torch.equal(mean, expected) for mean in found)
    assert modes(bnn) == before


def test_copies_have_draws_of_their_own() -> None:
    bnn, x = bayesian()
    expected = bnn.predict(x, 0).mean
    with bnn.drawn_weights(), bnn.draw.use(torch.zeros(bnn.num_gates)):
        other = copy.deepcopy(bnn)
    assert other.draw is not bnn.draw and other.net[0].gate.draw is other.draw and other.net[0].draw is other.draw
    assert other.draw.sizes == bnn.draw.sizes and other.draw.slices is None and other.net[0].drawn is None
    assert torch.equal(other.predict(x, 0).mean, expected)
    layer = bnn.net[4]
    with bnn.drawn_weights():
        assert layer.drawn is not None and copy.copy(layer).drawn is None
    plain = copy.deepcopy(compact(bnn.eval()))
    linear = [module for module in plain.modules() if isinstance(module, nn.Linear)]
    assert linear and all(vars(module).keys() == vars(nn.Linear(1, 1)).keys() for module in linear)


def test_a_draw_of_one_thread_is_not_that_of_another() -> None:
    draw, gate = Draw([3]), Gate(3)
    gate.connect(draw, 0)
    with torch.no_grad(), draw.use(torch.tensor([1.0, 0.0, 1.0])), ThreadPoolExecutor(1) as pool:
        assert gate(torch.ones(1, 3)).tolist() == [[1.0, 0.0, 1.0]]
        assert pool.submit(gate, torch.ones(1, 3)).result(WAIT).tolist() == [[1.0, 1.0, 1.0]]
        assert pool.submit(gate.state).result(WAIT) is None
