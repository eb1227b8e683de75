"""Loaders: every example once an epoch, in an order that seed and epoch alone decide."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from bayesprune.data import loaders
from bayesprune.data.images import Raw, make_splits
from bayesprune.errors import ConfigError

COUNT, TEST_COUNT = 50, 22


@pytest.fixture(scope="module")
def splits():
    """Images whose first pixel is their number, so that a batch tells which examples it holds."""

    def numbered(count):
        images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(count)
        return Raw(images, torch.arange(count) % 5)

    return make_splits("toy", numbered(COUNT), numbered(TEST_COUNT), 5)


def numbers(batch, splits):
    """The examples in ``batch``, and that every image came with its own label."""
    x, y = batch
    mean, std = splits.train.mean, splits.train.std
    found = (x[:, 0, 0, 0].double() * std + mean).round().long()
    assert y.equal(found % 5)
    return found.tolist()


def order(loader, splits):
    """The examples of one pass through ``loader``, in order."""
    return [number for batch in loader for number in numbers(batch, splits)]


@pytest.mark.parametrize("batch_size", [1, 7, 10, 50, 64])
def test_both_loaders_visit_every_example_once(splits, batch_size):
    for loader, count in zip(loaders(splits, batch_size, 0), (COUNT, TEST_COUNT), strict=True):
        assert isinstance(loader, DataLoader)
        batches = list(loader)
        assert all(type(batch) is tuple and batch[0].dtype == torch.float32 for batch in batches)
        sizes = [len(y) for _, y in batches]
        full, rest = divmod(count, batch_size)
        assert sizes == [batch_size] * full + [rest] * (rest > 0)
        assert len(loader) == len(sizes)
        assert len(loader.dataset) == count
        assert sorted(number for batch in batches for number in numbers(batch, splits)) == list(range(count))


def test_the_test_split_keeps_its_order(splits):
    _, test = loaders(splits, 8, 3)
    for _ in range(2):
        assert order(test, splits) == list(range(TEST_COUNT))


def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(splits):
    unbroken, _ = loaders(splits, 8, 11)
    epochs = []
    for epoch in range(4):
        unbroken.set_epoch(epoch)
        epochs.append(order(unbroken, splits))
    torch.manual_seed(999)
    resumed, _ = loaders(splits, 8, 11)
    for epoch in (2, 3, 0):
        resumed.set_epoch(epoch)
        assert order(resumed, splits) == epochs[epoch]


def test_without_set_epoch_every_pass_is_the_next_epoch(splits):
    plain, _ = loaders(splits, 8, 11)
    told, _ = loaders(splits, 8, 11)
    for epoch in range(3):
        told.set_epoch(epoch)
        assert order(plain, splits) == order(told, splits)


def test_orders_differ_between_seeds_and_epochs(splits):
    seen = set()
    for seed in range(4):
        loader, _ = loaders(splits, 8, seed)
        seen |= {tuple(order(loader, splits)) for _ in range(4)}
    assert len(seen) == 16


def test_first_examples_are_uniform(splits):
    loader, _ = loaders(splits, COUNT, 0)
    draws = 2000
    counts = torch.zeros(COUNT)
    for epoch in range(draws):
        loader.set_epoch(epoch)
        counts[int(next(iter(loader.batches))[0])] += 1
    expected = draws / COUNT
    statistic = float(((counts - expected) ** 2 / expected).sum())
    # Chi-square with 49 degrees of freedom is above 96 with probability 7e-5; the seed is fixed.
    assert statistic < 96


def test_iterating_draws_nothing_from_the_global_generator(splits):
    before = torch.get_rng_state()
    for loader in loaders(splits, 8, 0):
        list(loader)
    assert torch.get_rng_state().equal(before)


def test_two_passes_at_once_do_not_disturb_each_other(splits):
    loader, _ = loaders(splits, 8, 5)
    loader.set_epoch(0)
    first = order(loader, splits)
    second = order(loader, splits)
    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))
    assert [number for batch, _ in pairs for number in numbers(batch, splits)] == first
    assert [number for _, batch in pairs for number in numbers(batch, splits)] == second


def test_a_loader_survives_pickling(splits):
    loader, _ = loaders(splits, 8, 5)
    loader.set_epoch(3)
    copy = pickle.loads(pickle.dumps(loader))
    assert order(copy, splits) == order(loader, splits)


@pytest.mark.parametrize(("batch_size", "seed", "message"), [(0, 0, "batch_size .* got 0"), (8, -1, "seed .* got -1")])
def test_settings_that_cannot_work(splits, batch_size, seed, message):
    with pytest.raises(ConfigError, match=message):
        loaders(splits, batch_size, seed)


def test_negative_epoch(splits):
    loader, _ = loaders(splits, 8, 0)
    with pytest.raises(ConfigError, match="got -1"):
        loader.set_epoch(-1)
