"""A run that fails in the middle of an epoch leaves the network as that epoch found it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bayesprune.errors import DataError, NonFiniteLossError
from bayesprune.infer import BayesianNet
from bayesprune.layers import Residual
from bayesprune.layers.residual import Bypass
from bayesprune.pruning import compact, kept_gates, shrink
from bayesprune.training import EpochRow, Settings, fit
from tests.training.problems import Batches, bayesian, branches, examples, units

QUICK = {"sample_from": 0.1, "settle_from": 0.4, "fine_tune_from": 0.8}


class Spoilt(Batches):
    """In one batch of one epoch inputs are NaN or labels are out of range, or the loader itself is broken off."""

    def __init__(self, epoch: int, what: str | type[BaseException]):
        super().__init__(*examples())
        self.first_bad, self.what = epoch, what

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (x, y) in enumerate(super().__iter__()):
            bad = self.epoch == self.first_bad and number == 7
            if bad and isinstance(self.what, type):
                raise self.what
            yield x * math.nan if bad and self.what == "inputs" else x, y + 5 if bad and self.what == "labels" else y


def state(bnn: BayesianNet) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in bnn.state_dict().items()}


@pytest.mark.parametrize("slab", ["point", "normal"])
@pytest.mark.parametrize(
    ("what", "error", "epoch"),
    [
        ("inputs", NonFiniteLossError, 1),
        ("inputs", NonFiniteLossError, 5),
        ("labels", DataError, 0),
        ("labels", DataError, 5),
        (OSError, OSError, 5),
        (KeyboardInterrupt, KeyboardInterrupt, 5),
    ],
)
def test_the_network_is_as_the_epoch_found_it(
    slab: str, what: str | type[BaseException], error: type[BaseException], epoch: int
) -> None:
    torch.manual_seed(0)
    bnn = bayesian(units(), 3.0, slab=slab)
    states, prices = [state(bnn)], [bnn.price.clone()]

    def remember(row: EpochRow) -> None:
        states.append(state(bnn))
        prices.append(bnn.price.clone())

    with pytest.raises(error):
        fit(bnn, Spoilt(epoch, what), epochs=8, settings=Settings(lr=0.02, schedule=QUICK), on_epoch=remember)
    assert len(states) == epoch + 1
    found = state(bnn)
    assert found.keys() == states[epoch].keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in states[epoch].items())
    assert epoch == 0 or torch.equal(bnn.price, prices[epoch])  # fit itself charges for Normal weights as it begins
    x, _ = examples(10)
    bnn.eval()
    torch.testing.assert_close(compact(bnn)(x), bnn(x))
    assert bool(torch.isfinite(bnn.predict(x, 3).mean).all())


def test_structures_that_went_in_the_epoch_come_back_and_training_can_go_on() -> None:
    torch.manual_seed(0)
    bnn = bayesian(branches(), 60.0)
    x, _ = examples(10)
    back, before, outputs = bnn.snapshot(), state(bnn), bnn.eval()(x)
    with torch.no_grad():
        bnn.theta[1:] = 0.0
    fit(bnn, Batches(*examples()), epochs=2, settings=Settings(lr=0.02, schedule=QUICK))
    assert bnn.num_gates < 4
    back()
    assert bnn.num_gates == 4
    assert all(torch.equal(state(bnn)[name], tensor) for name, tensor in before.items())
    assert torch.equal(bnn.eval()(x), outputs)
    history = fit(bnn.train(), Batches(*examples()), epochs=2, settings=Settings(lr=0.02, schedule=QUICK))
    assert math.isfinite(history.rows[-1].loss)


@pytest.mark.parametrize("cut", [False, True])
def test_modules_and_parameters_are_the_same_objects_again(cut: bool) -> None:
    """With values, modes and classes as they were, and without the gradients of what failed."""
    bnn = bayesian(branches(), 60.0, slab="normal").train()
    net, block, before = bnn.net, bnn.net[1], state(bnn)
    modules, parameters, theta = list(net.modules()), dict(net.named_parameters()), bnn.theta
    back = bnn.snapshot()
    if cut:
        smaller, index = shrink(net, {"1": torch.tensor([True])})
        bnn.replace(smaller, kept_gates(net, index))
        assert type(block) is Bypass and bnn.num_gates == 3
    with torch.no_grad():
        for p in bnn.parameters():
            p.grad = torch.full_like(p, math.nan)
            p.zero_()
    bnn.eval()
    back()
    assert bnn.net is net and net[1] is block and type(block) is Residual and list(net.modules()) == modules
    assert all(p is parameters[name] and p.grad is None for name, p in net.named_parameters())
    assert net.training and block.training and bnn.theta.grad is None
    assert (bnn.theta is theta) != cut
    assert all(torch.equal(state(bnn)[name], tensor) for name, tensor in before.items())
