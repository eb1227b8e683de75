"""Images in memory: normalisation, indexing, limits."""

import pytest
import torch

from bayesprune.data import load
from bayesprune.data.images import Raw, class_mixed_order, make_splits
from bayesprune.errors import ConfigError, DataError

CLASSES = 4


def toy(count, seed, channels=3, side=5):
    """Random bytes with classes 0, 1, 2, 3, 0, 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    images[:, 0] //= 4
    return Raw(images, torch.arange(count) % CLASSES)


def test_training_channels_are_normalised_and_the_test_split_by_the_same_numbers():
    train, test = toy(40, seed=1), toy(12, seed=2)
    splits = make_splits("toy", train, test, CLASSES)
    pixels = train.images.double()
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3), correction=0)
    for raw, split in ((train, splits.train), (test, splits.test)):
        x, y = split[:]
        expected = (raw.images.double() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.double(), expected, atol=1e-6, rtol=1e-5)
        assert y.equal(raw.labels)
    x = splits.train[:][0].double()
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        x.std(dim=(0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (splits.name, splits.num_classes, splits.input_shape) == ("toy", CLASSES, (3, 5, 5))


def test_a_constant_channel_becomes_zero():
    train, test = toy(8, seed=1), toy(8, seed=2)
    train.images[:, 1] = test.images[:, 1] = 200
    splits = make_splits("toy", train, test, CLASSES)
    assert splits.train[:][0][:, 1].abs().max() <= 1e-4
    assert splits.train[:][0].isfinite().all()


@pytest.mark.parametrize(
    "index",
    [3, slice(2, 7), [4, 0, 4], torch.tensor([5, 1, 1]), torch.tensor([1], dtype=torch.int32), torch.arange(16) > 9],
    ids=["integer", "slice", "list", "int64", "int32", "mask"],
)
def test_every_index_selects_what_it_selects_from_a_tensor(index):
    split = make_splits("toy", toy(16, seed=3), toy(8, seed=4), CLASSES).train
    all_x, all_y = split.tensors
    x, y = split[index]
    assert x.equal(all_x[index]) and y.equal(all_y[index])


def test_indexing_leaves_the_data_alone():
    raw = toy(16, seed=3)
    split = make_splits("toy", raw, toy(8, seed=4), CLASSES).train
    before = split[:][0].clone()
    split[:][0].zero_()
    split[torch.tensor([0, 1])][0].zero_()
    assert split[:][0].equal(before)
    assert split.images.equal(raw.images)


@pytest.mark.parametrize("counts", [(30, 30, 30, 30), (57, 3, 20, 40), (1, 99)])
def test_every_beginning_of_the_order_has_the_class_mix(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = class_mixed_order(labels)
    assert order.sort().values.equal(torch.arange(len(labels)))
    shares = torch.tensor(counts) / len(labels)
    for size in range(1, len(labels) + 1):
        found = torch.bincount(labels[order[:size]], minlength=len(counts))
        # Up to level t class c has t n_c members, rounded; the rounding of all K classes moves t by at most K / 2n.
        assert ((found - size * shares).abs() <= 0.5 + shares * len(counts) / 2 + 1e-5).all()


def test_the_order_is_not_that_of_the_files():
    order = class_mixed_order(torch.zeros(100, dtype=torch.int64))
    # The number of ascents of a random permutation has mean 49.5 and deviation 2.9: 15 is over 5 deviations.
    assert abs(int((order.diff() > 0).sum()) - 49.5) < 15


def test_a_smaller_limit_is_the_beginning_of_a_larger_one_and_normalises_by_itself():
    raw, test = toy(40, seed=1), toy(12, seed=2)
    small, large = (make_splits("toy", raw, test, CLASSES, limit=limit) for limit in (10, 30))
    assert small.train.images.equal(large.train.images[:10])
    assert small.train.labels.equal(large.train.labels[:10])
    assert small.train[:][0].mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert len(small.test) == 12 and small.num_classes == CLASSES


def test_a_limit_of_all_examples_keeps_all():
    raw = toy(40, seed=1)
    split = make_splits("toy", raw, toy(12, seed=2), CLASSES, limit=40).train
    assert sorted(split.images.sum(dim=(1, 2, 3)).tolist()) == sorted(raw.images.sum(dim=(1, 2, 3)).tolist())


@pytest.mark.parametrize("limit", [-1, 0, 41])
def test_limits_that_cannot_be_met(limit):
    with pytest.raises(ConfigError, match=f"toy: limit must be a whole number, from 1 to 40, got {limit}; so many"):
        make_splits("toy", toy(40, seed=1), toy(12, seed=2), CLASSES, limit=limit)


def test_a_limit_that_leaves_one_class():
    with pytest.raises(
        DataError, match=r"toy, training split: .*at least two classes, found only class \d in 1 examples"
    ):
        make_splits("toy", toy(40, seed=1), toy(12, seed=2), CLASSES, limit=1)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (toy(0, 1), toy(8, 1), "toy, training split: expected at least one example"),
        (toy(8, 1), toy(0, 1), "toy, test split: expected at least one example"),
        (toy(8, 1), toy(8, 1, side=4), r"toy: .*one size, found \(3, 5, 5\) and \(3, 4, 4\)"),
        (toy(8, 1), Raw(toy(8, 1).images, torch.arange(7) % 4), "toy, test split: .* found 8 images and 7 labels"),
        (
            toy(8, 1),
            Raw(toy(8, 1).images, torch.arange(8)),
            "toy, test split: .*labels from 0 to 3, found .* from 0 to 7",
        ),
    ],
)
def test_splits_that_do_not_fit(train, test, message):
    with pytest.raises(DataError, match=message):
        make_splits("toy", train, test, CLASSES)


def test_data_say_what_they_are() -> None:
    digits = load("digits", limit=1000)
    assert repr(digits) == "Splits('digits', 1,000 training and 360 test examples of shape (1, 8, 8), 10 classes)"
    assert repr(digits.test) == "Images(360 examples of shape (1, 8, 8))"
