"""Random crops and flips: exact values, their law, and that a batch is made without looking at it."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as vision

from bayesprune.data import Augment, loaders
from bayesprune.data.augment import AugmentedImages
from bayesprune.data.images import Raw, make_splits
from bayesprune.errors import ConfigError

COUNT, CHANNELS, HEIGHT, WIDTH = 40, 3, 5, 6
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@pytest.fixture(scope="module")
def splits():
    """Random bytes, none of them 0, so that the border of a crop is told from the image."""
    generator = torch.Generator().manual_seed(0)

    def random(count):
        size = (count, CHANNELS, HEIGHT, WIDTH)
        return Raw(torch.randint(1, 256, size, generator=generator, dtype=torch.uint8), torch.arange(count) % 5)

    return make_splits("toy", random(COUNT), random(10), 5)


def varied(image, pad, top, left, flip):
    """One image by the definition: border of zeros, slice, mirror image."""
    crop = F.pad(image, (pad, pad, pad, pad))[:, top : top + HEIGHT, left : left + WIDTH]
    return crop.flip(-1) if flip else crop


def every_choice(pad):
    """All crops and flips there are, shape (3, (2 pad + 1)² 2)."""
    offsets = torch.arange(2 * pad + 1)
    return torch.cartesian_prod(offsets, offsets, torch.arange(2)).T


@pytest.mark.parametrize("pad", [0, 1, 3, 4])
def test_every_crop_and_flip_is_pad_slice_and_flip(splits, pad):
    choices = every_choice(pad)
    numbers = torch.arange(choices.shape[1]) * 7 % COUNT
    x, y = AugmentedImages(splits.train, Augment(pad))[torch.cat([numbers[None], choices])]
    crops = [varied(splits.train.images[n], pad, *c) for n, c in zip(numbers, choices.T.tolist(), strict=True)]
    assert x.dtype == torch.float32
    assert x.equal(splits.train.normalise(torch.stack(crops)))
    assert y.equal(numbers % 5)


def test_every_crop_and_flip_is_torchvisions(splits):
    pad = 2
    choices = every_choice(pad)
    numbers = torch.zeros(choices.shape[1], dtype=torch.int64)
    x, _ = AugmentedImages(splits.train, Augment(pad))[torch.cat([numbers[None], choices])]
    padded = vision.pad(splits.train.images[0], [pad])
    for got, (top, left, flip) in zip(x, choices.T.tolist(), strict=True):
        crop = vision.crop(padded, top, left, HEIGHT, WIDTH)
        assert got.equal(splits.train.normalise(vision.horizontal_flip(crop) if flip else crop))


def test_the_border_is_black_before_normalisation(splits):
    x, _ = AugmentedImages(splits.train, Augment(4))[torch.tensor([[3], [0], [0], [0]])]
    black = -splits.train.mean / splits.train.std
    border = x[0].clone()
    border[:, 4:, 4:] = border[:, :1, :1]
    torch.testing.assert_close(border.double(), black.view(-1, 1, 1).expand_as(border), atol=1e-6, rtol=1e-6)
    assert x[0, :, 4:, 4:].equal(splits.train[3][0][:, : HEIGHT - 4, : WIDTH - 4])


@pytest.mark.parametrize("device", DEVICES)
def test_batches_hold_the_examples_of_the_plain_loader_with_the_draws_of_their_places(splits, device):
    augment, seed = Augment(2), 5
    plain, _ = loaders(splits, 16, seed)
    loader, _ = loaders(splits, 16, seed, augment=augment, device=device)
    for epoch in range(2):
        draws = torch.from_numpy(augment.draw(COUNT, seed, epoch)).split(16, dim=1)
        for numbers, choice, (x, y) in zip(list(plain.batches), draws, loader, strict=True):
            crops = [
                varied(splits.train.images[n], 2, *c) for n, c in zip(numbers.tolist(), choice.T.tolist(), strict=True)
            ]
            assert x.device.type == y.device.type == device
            # Another device may round the product and the sum together.
            torch.testing.assert_close(
                x.cpu(), splits.train.normalise(torch.stack(crops)), rtol=0, atol=0 if device == "cpu" else 1e-6
            )
            assert y.cpu().equal(splits.train.labels[numbers])


def test_crops_and_flips_are_uniform_and_independent():
    augment = Augment(1)
    draws = torch.from_numpy(augment.draw(180_000, seed=3, epoch=2))
    assert (draws.min(dim=1).values.tolist(), draws.max(dim=1).values.tolist()) == ([0, 0, 0], [2, 2, 1])
    cells = torch.bincount(draws[0] * 6 + draws[1] * 2 + draws[2], minlength=18).double()
    # Chi-square with 17 degrees of freedom is above 48 with probability 9e-5; the seed is fixed.
    assert float(((cells - 10_000) ** 2 / 10_000).sum()) < 48
    # Neighbouring places are independent too: correlations of 180,000 pairs have deviation 0.0024.
    for row in draws.double():
        assert abs(float(torch.corrcoef(torch.stack([row[1:], row[:-1]]))[0, 1])) < 0.01


def test_draws_belong_to_seed_and_epoch_and_not_to_the_generator_of_the_order():
    augment = Augment()
    draws = {(seed, epoch): augment.draw(COUNT, seed, epoch).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(set(draws.values())) == 9
    assert all(augment.draw(COUNT, *key).tobytes() == value for key, value in draws.items())
    assert (augment.draw(COUNT, 0, 1)[:2] != np.random.default_rng((0, 1)).integers(0, 9, (2, COUNT))).any()


def test_without_flip_the_crops_stay_as_they_are():
    both, crops = Augment(3).draw(500, 1, 4), Augment(3, flip=False).draw(500, 1, 4)
    assert (both[:2] == crops[:2]).all()
    assert both[2].any() and not crops[2].any()


def test_without_border_and_flip_nothing_changes(splits):
    plain, _ = loaders(splits, 16, 1)
    loader, _ = loaders(splits, 16, 1, augment=Augment(0, flip=False))
    for (x, y), (x_plain, y_plain) in zip(loader, plain, strict=True):
        assert x.equal(x_plain) and y.equal(y_plain)


def test_a_resumed_run_sees_the_crops_of_an_unbroken_one_and_draws_nothing_globally(splits):
    unbroken, _ = loaders(splits, 16, 2, augment=Augment(2))
    epochs = [torch.cat([x for x, _ in unbroken]) for _ in range(3)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    resumed = pickle.loads(pickle.dumps(loaders(splits, 16, 2, augment=Augment(2))[0]))
    resumed.set_epoch(1)
    assert torch.cat([x for x, _ in resumed]).equal(epochs[1])
    assert torch.cat([x for x, _ in resumed]).equal(epochs[2])
    assert torch.get_rng_state().equal(before)


def test_the_images_stay_as_they_are_and_only_training_is_varied(splits):
    before = splits.train.images.clone()
    loader, test = loaders(splits, 16, 0, augment=Augment())
    list(loader)
    assert splits.train.images.equal(before)
    assert torch.cat([x for x, _ in test]).equal(splits.test[:][0])
    assert len(loader.dataset) == COUNT


@pytest.mark.parametrize("augment", [None, Augment(2)])
def test_no_batch_looks_at_a_value_or_mixes_devices(splits, augment):
    # A tensor on "meta" has no values: to read one, to branch on one or to combine it with another device raises.
    train, test = loaders(splits, 16, 0, augment=augment, device="meta")
    for loader, sizes in ((train, [16, 16, 8]), (test, [10])):
        shapes = []
        for x, y in loader:
            assert x.is_meta and y.is_meta
            shapes.append((tuple(x.shape), tuple(y.shape)))
        assert shapes == [((size, CHANNELS, HEIGHT, WIDTH), (size,)) for size in sizes]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_batch_waits_for_the_device(splits):
    for loader in loaders(splits, 16, 0, augment=Augment(2), device="cuda"):
        batches = iter(loader)  # moves the order of the epoch
        torch.cuda.set_sync_debug_mode("error")
        try:
            assert sum(len(y) for _, y in batches) == len(loader.dataset)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_on_its_own_device_a_split_is_not_copied(splits):
    train, test = loaders(splits, 16, 0, device="cpu")
    assert train.dataset is splits.train and test.dataset is splits.test
    moved = splits.train.to("meta")
    assert moved.images.dtype == torch.uint8 and not splits.train.images.is_meta
    statistics = {"mean", "std"}  # for people; batches use neither
    assert {name for name, value in vars(moved).items() if not value.is_meta} == statistics


def test_settings_that_cannot_work(splits):
    with pytest.raises(ConfigError, match="pad must be a whole number, at least 0, got -1"):
        Augment(-1)
    with pytest.raises(ConfigError, match=r"smaller than the images, which are 5 x 6 .* got 5"):
        loaders(splits, 8, 0, augment=Augment(5))


def test_settings_are_those_of_the_standard_recipe_and_fixed():
    assert (Augment().pad, Augment().flip) == (4, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Augment().pad = 2
