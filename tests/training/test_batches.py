"""Batches as users have them: each kind trains to the numbers of the plain one, or is refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, Bernoulli, Gaussian
from bayesprune.layers import Gate
from bayesprune.training import Settings, evaluate, fit
from bayesprune.training.checks import check_data
from tests.training.loaders import Mapped, TwoInputs, TwoOutputs, halves, trained
from tests.training.problems import EXAMPLES, REST, Batches, bayesian, examples, units


class Unsized:
    """The plain batches without a length."""

    def __init__(self, size: int = 40):
        self.plain = Batches(*examples(), size)
        self.set_epoch = self.plain.set_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.plain)


class Stream(IterableDataset):
    """The examples one by one, with or without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(list(zip(*examples(), strict=True)))


class SizedStream(Stream):
    def __len__(self) -> int:
        return EXAMPLES


@pytest.fixture(scope="module")
def plain() -> tuple[list[float], list[Tensor]]:
    return trained(Batches(*examples()))


SAME: dict[str, tuple[Callable[[], Any], Callable[[], nn.Module], dict[str, Any]]] = {
    "weights of 1": (lambda: Mapped(lambda x, y: (x, y, torch.ones(len(y)))), units, {}),
    "double weights": (lambda: Mapped(lambda x, y: [x, y, torch.ones(len(y)).double()]), units, {}),
    "two inputs": (lambda: Mapped(lambda x, y: (halves(x), y)), TwoInputs, {}),
    "two inputs in a list": (lambda: Mapped(lambda x, y: [list(halves(x)), y]), TwoInputs, {}),
    "inputs by name": (lambda: Mapped(lambda x, y: ({"right": x[:, 3:], "left": x[:, :3]}, y)), TwoInputs, {}),
    "numpy": (lambda: Mapped(lambda x, y: (x.numpy(), y.numpy())), units, {}),
    "double": (lambda: Mapped(lambda x, y: (x.double(), y)), units, {}),
    "int32 labels": (lambda: Mapped(lambda x, y: (x, y.int())), units, {}),
    "uint8 labels": (lambda: Mapped(lambda x, y: (x, y.byte())), units, {}),
    "boolean labels": (lambda: Mapped(lambda x, y: (x, y.bool())), units, {}),
    "with gradient": (lambda: Mapped(lambda x, y: (x.clone().requires_grad_(), y)), units, {}),
    "without a length": (Unsized, units, {}),
    "output of a tuple": (lambda: Batches(*examples()), lambda: TwoOutputs("tuple"), {"loss_on": 1}),
    "last of a tuple": (lambda: Batches(*examples()), lambda: TwoOutputs("tuple"), {"loss_on": -1}),
    "output of a dict": (lambda: Batches(*examples()), lambda: TwoOutputs("dict"), {"loss_on": "logits"}),
    "output by a function": (lambda: Batches(*examples()), lambda: TwoOutputs("tuple"), {"loss_on": lambda o: o[1]}),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_numbers_are_those_of_the_plain_batches_to_the_bit(kind: str, plain: Any) -> None:
    loader, net, how = SAME[kind]
    losses, learned = trained(loader(), net, **how)
    assert losses == plain[0]
    assert all(torch.equal(one, other) for one, other in zip(learned, plain[1], strict=True))


@pytest.mark.parametrize(("stream", "workers"), [(Stream, 0), (SizedStream, 0), (SizedStream, 1)])
def test_an_iterable_data_set_trains_as_a_list_of_its_batches(stream: type[Stream], workers: int) -> None:
    losses, _ = trained(DataLoader(stream(), 40, num_workers=workers, generator=torch.Generator()))
    x, y = examples()
    expected, _ = trained(list(zip(x.split(40), y.split(40), strict=True)))
    assert losses == expected


def test_an_iterable_data_set_of_another_size_is_refused_after_its_first_epoch() -> None:
    bnn = BayesianNet(units(), num_data=EXAMPLES + 1)
    with pytest.raises(ConfigError, match="num_data=481, but an epoch of the train_loader has 480 examples"):
        fit(bnn, DataLoader(Stream(), 40), epochs=2)
    with pytest.raises(ConfigError, match="num_data=481, but the train_loader's data set has 480 examples"):
        fit(bnn, DataLoader(SizedStream(), 40), epochs=2)


def test_dropped_examples_of_a_stream_are_allowed_for() -> None:
    bnn = bayesian(units())
    history = fit(bnn, DataLoader(Stream(), 100, drop_last=True), epochs=2)
    assert len(history.rows) == 2


def test_batches_of_changing_size_need_a_length() -> None:
    class Uneven(Unsized):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            x, y = examples()
            return iter(list(zip(x.split([40, 400, 40]), y.split([40, 400, 40]), strict=True)))

    with pytest.raises(ConfigError, match="had 3 batches, where its first batch and num_data=480 let expect 12"):
        fit(BayesianNet(units(), num_data=EXAMPLES), Uneven(), epochs=2)


def test_what_gives_no_batches_or_gives_them_once_is_refused() -> None:
    bnn, plain = BayesianNet(units(), num_data=EXAMPLES), Batches(*examples())
    with pytest.raises(ConfigError, match="fit: train_loader must be an iterable, got 5"):
        fit(bnn, 5, epochs=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="evaluate: loader must be an iterable, got None"):
        evaluate(bnn, None)  # type: ignore[arg-type]
    assert evaluate(bnn, iter(plain)) == evaluate(bnn, plain)
    with pytest.raises(ConfigError, match="fit: the val_loader is an iterator"):
        fit(bnn, plain, epochs=1, val_loader=iter(plain))


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "a dict": (lambda x, y: {"input": x, "target": y}, r"got a dict of 'input', 'target'; let the loader's collate_fn"),
    "one value": (lambda x, y: (x,), "got 1 values"),
    "a tensor": (lambda x, y: x, "got an object of class Tensor"),
    "text": (lambda x, y: (["a"] * 40, y), "input 0: expected a tensor or an array of numpy, got a str"),
    "objects": (lambda x, y: (x.numpy().astype(object), y), "an array of object has no numbers that torch knows"),
    "no inputs": (lambda x, y: ((), y), "at least one tensor"),
    "targets in a list": (lambda x, y: (x, [1] * 40), "targets: expected a tensor or an array of numpy, got a list"),
    "empty": (lambda x, y: (x[:0], y[:0]), "is empty"),
    "a number": (lambda x, y: (x, y[0]), "must be the batch, got a single number"),
    "too few targets": (lambda x, y: (x, y[:39]), "has 40 inputs for 39 targets"),
    "uneven inputs": (lambda x, y: ((x, x[:3]), y), r"equally long in all; got shapes \(40, 8\), \(3, 8\)"),
    "features": (
        lambda x, y: (x[:, :6], y),
        r"does not take inputs of shape \(\d+, 6\) float32: layer '0', Gate\(.*\), got shape \(\d+, 6\)",
    ),
    "two inputs of one": (lambda x, y: ((x, x), y), r"shape \(\d+, 8\) float32, \(\d+, 8\) float32: the forward pass"),
    "weights of another shape": (lambda x, y: (x, y, y[:, None].float()), r"shape \(40,\), got shape \(40, 1\)"),
    "negative weights": (lambda x, y: (x, y, -torch.ones(40)), "weights must be finite and not negative"),
    "no weights": (lambda x, y: (x, y, torch.full((40,), math.nan)), "weights must be finite and not negative"),
    "labels": (lambda x, y: (x, torch.full_like(y, 2)), "labels run from 2 to 2, but the network has 2 outputs"),
    "ignored labels": (lambda x, y: (x, torch.full_like(y, -100)), "labels run from -100 to -100"),
    "real labels": (lambda x, y: (x, y.float()), "expected integer labels"),
}


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("kind", REFUSED)
def test_batches_that_cannot_be_trained_on(kind: str, epoch: int) -> None:
    function, says = REFUSED[kind]
    bnn = BayesianNet(units(), num_data=EXAMPLES)
    with pytest.raises(DataError, match=says) as caught:
        fit(bnn, Mapped(function, epoch), epochs=2, settings=Settings(schedule=REST))
    assert "\n" not in str(caught.value)
    assert ("first training batch" in str(caught.value) or "fit: " in str(caught.value)) == (epoch == 0)


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
@pytest.mark.parametrize("epoch", [0, 1])
def test_targets_that_are_not_finite_are_named(likelihood: Any, epoch: int) -> None:
    def spoil(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        target = torch.stack([y, y], 1).float()
        target[3, 1] = math.nan
        return x, target

    clean = Mapped(lambda x, y: (x, torch.stack([y, y], 1).float()))
    loader = Mapped(lambda x, y: spoil(x, y) if loader.plain.epoch >= epoch else clean.function(x, y))
    with pytest.raises(DataError, match=r"the targets hold 1 NaN or infinite values, the first for example 3"):
        fit(BayesianNet(units(), likelihood, num_data=EXAMPLES), loader, epochs=2, settings=Settings(schedule=REST))


def normalised(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), norm(), Gate(6), nn.ReLU(), nn.Linear(6, 2))


def test_a_last_batch_of_one_example_is_refused_for_a_batch_norm_alone() -> None:
    x, y = examples(81)
    data = TensorDataset(x, y)
    bnn = bayesian(normalised(lambda: nn.BatchNorm1d(6)), 0.5, num_data=81)
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    with pytest.raises(DataError, match="fit: the last training batch has one example, over which a BatchNorm cannot"):
        fit(bnn, DataLoader(data, 40), epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())
    with pytest.raises(DataError, match="training batch 1 has one example"):  # no one can know beforehand
        fit(bnn, list(zip(x.split([80, 1]), y.split([80, 1]), strict=True)), epochs=1)
    fit(bnn, DataLoader(data, 40, drop_last=True), epochs=1)
    fit(bnn, DataLoader(data, 41), epochs=1)
    fit(bayesian(normalised(nn.Identity), 0.5, num_data=81), DataLoader(data, 40), epochs=1)


def test_looking_at_the_last_batch_leaves_random_numbers_and_statistics() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), Gate(8), nn.Linear(8, 2))
    torch.manual_seed(0)
    x, y = torch.randn(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    bnn = BayesianNet(net, num_data=5)
    state, number = torch.get_rng_state(), net[1].num_batches_tracked.clone()
    check_data(bnn, DataLoader(TensorDataset(x, y), 4, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net[1].num_batches_tracked, number) and not net[1].running_mean.any()


class Endless:
    """Batches without a length and without an end."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from Batches(*examples())


def test_batches_without_end_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"which has no length, had more than 12 batches, where its first batch and"):
        fit(bayesian(units()), Endless(), epochs=1)
