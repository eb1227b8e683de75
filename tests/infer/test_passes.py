"""Predictions some rows at a time: the numbers of one pass, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune import layers
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer import BayesianNet, Categorical
from bayesprune.infer.passes import ENTRIES, FEWEST, pieces
from bayesprune.layers import Gate, Residual


def network(slab: str = "normal") -> BayesianNet:
    """Units, a branch and Normal weights, in double precision, where rounding cannot hide anything."""
    torch.manual_seed(0)
    net = nn.Sequential(
        Gate(5, theta=0.6),
        layers.Linear(5, 6, gate="unit"),
        nn.ReLU(),
        Residual(nn.Linear(6, 6)),
        nn.Dropout(),
        nn.Linear(6, 3),
    )
    bnn = BayesianNet(net, num_data=70, slab=slab)
    with torch.no_grad():
        bnn.theta.uniform_(0.2, 0.8)
    return bnn.double()


def rows(count: int = 70) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def predicted(x: Any, num_samples: int, slab: str = "normal", **how: Any) -> tuple[Tensor, Tensor]:
    """Samples, and the random number that comes next."""
    bnn = network(slab)
    torch.manual_seed(2)
    return bnn.predict(x, num_samples, **how).samples, torch.rand(1)


class Shuffled:
    """A loader of one order, that draws random numbers of its own."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x in rows().split(16):
            torch.rand(7)
            yield x, torch.zeros(len(x))


LOADERS: dict[str, Callable[[], Any]] = {
    "a loader of tensors": lambda: DataLoader(TensorDataset(rows()), 16),
    "a list of batches": lambda: [(x, torch.zeros(len(x))) for x in rows().split(16)],
    "a loader with targets": lambda: DataLoader(TensorDataset(rows(), torch.zeros(70)), 23),
    "a loader that draws": Shuffled,
    "a generator": lambda: (x for x in rows().split(32)),
    "a loader by name": lambda: ({"input": x} for x in rows().split(32)),
    "an array": lambda: rows().numpy(),
    "a tuple of one": lambda: (rows(),),
}


@pytest.mark.parametrize("slab", ["point", "normal"])
@pytest.mark.parametrize("num_samples", [0, 1, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 69, 70, 1000])
def test_every_batch_size_gives_the_numbers_of_one_pass(batch_size: int, num_samples: int, slab: str) -> None:
    whole, after = predicted(rows(), num_samples, slab, batch_size=70)
    found, next_one = predicted(rows(), num_samples, slab, batch_size=batch_size)
    assert found.shape == (max(1, num_samples), 70, 3)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(next_one, after)


@pytest.mark.parametrize("num_samples", [0, 4])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_gives_the_numbers_of_its_rows(kind: str, num_samples: int) -> None:
    whole, _ = predicted(rows(), num_samples)
    found, _ = predicted(LOADERS[kind](), num_samples)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


def test_a_sample_is_one_network_for_all_rows() -> None:
    same = rows(1).expand(70, 5)
    for x in (same, DataLoader(TensorDataset(same), 16)):
        samples, _ = predicted(x, 6, batch_size=9)
        torch.testing.assert_close(samples, samples[:, :1].expand(6, 70, 3), rtol=1e-12, atol=1e-12)
        assert len(samples[:, 0].unique(dim=0)) == 6


def test_how_many_rows_go_at_once() -> None:
    assert [len(part) for part in pieces(torch.zeros(1000, 28 * 28), None)] == [334, 334, 332]
    assert [len(part) for part in pieces(torch.zeros(70, 3, 224, 224), None)] == [FEWEST, FEWEST, 70 - 2 * FEWEST]
    assert len(pieces(torch.zeros(ENTRIES // 10, 10), None)) == 1
    assert len(pieces(torch.zeros(0, 10), None)) == 1


@pytest.mark.parametrize("num_samples", [0, 2])
def test_memory_does_not_grow_with_the_number_of_images(num_samples: int) -> None:
    """4,000 images of 28 x 28 through 32 maps are 400 MB a layer in one pass; in parts the largest tensor has 33 MB."""
    net = nn.Sequential(
        layers.Conv2d(1, 32, 3, padding=1, gate="unit"), nn.ReLU(), nn.MaxPool2d(28), nn.Flatten(), nn.Linear(32, 10)
    )
    bnn, largest = BayesianNet(net, num_data=10), []
    for module in net:
        module.register_forward_hook(lambda module, args, output: largest.append(output.numel()))
    prediction = bnn.predict(torch.zeros(4000, 1, 28, 28), num_samples)
    assert prediction.mean.shape == (4000, 10)
    assert max(largest) <= 334 * 32 * 28 * 28


def test_floating_point_inputs_are_brought_to_the_weights() -> None:
    bnn = network("point").float()
    assert torch.equal(bnn.predict(rows(), 0).mean, bnn.predict(rows().float(), 0).mean)


@pytest.mark.parametrize(
    ("x", "how", "error", "says"),
    [
        (rows(), {"batch_size": 0}, ConfigError, "batch_size must be a whole number, at least 1, got 0"),
        (rows()[:, :4], {}, DataError, "does not take inputs of shape (70, 4) float64: layer '0', Gate"),
        (rows()[0], {}, DataError, "does not take inputs of shape (5,) float64: layer '0', Gate"),
        (torch.tensor(1.0), {}, DataError, "the first dimension of inputs must be the batch, got a single number"),
        ([], {}, DataError, "at least one tensor"),
        (iter([]), {}, DataError, "the loader gave no batch"),
        (None, {}, DataError, "expected a tensor or an array of numpy, got a NoneType"),
        ("rows.csv", {}, DataError, "expected a tensor or an array of numpy, got a str"),
        (rows() / 0, {}, DataError, "predict: the inputs hold NaN or infinite values"),
        (iter([rows(), rows() / 0]), {}, DataError, "predict, batch 1: the inputs hold NaN"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted(x: Any, how: dict[str, Any], error: type[Exception], says: str) -> None:
    bnn = network()
    with pytest.raises(error, match=re.escape(says)):
        bnn.predict(x, 1, **how)
    assert bnn.training


def test_images_of_classes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(layers.Conv2d(2, 4, 1, gate="unit"), nn.ReLU(), nn.Conv2d(4, 3, 1))
    bnn, x = BayesianNet(net, Categorical(), num_data=10).double(), torch.randn(6, 2, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        bnn.theta.fill_(0.5)
    prediction = bnn.predict(x, 4, batch_size=2)
    assert prediction.mean.shape == (6, 3, 5, 4)
    torch.testing.assert_close(prediction.mean.sum(1), torch.ones(6, 5, 4).double())
    p = prediction.samples  # (4, 6, 3, 5, 4)
    y = torch.randint(0, 3, (6, 5, 4))
    chosen = p.gather(2, y.expand(4, 6, 5, 4)[:, :, None])[:, :, 0]
    torch.testing.assert_close(prediction.log_prob(y), chosen.flatten(2).prod(2).mean(0).log())
    entropy = -(prediction.mean * prediction.mean.log()).sum(1)
    torch.testing.assert_close(prediction.entropy, entropy.flatten(1).sum(1))
