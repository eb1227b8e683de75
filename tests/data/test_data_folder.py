"""Images in folders named after their classes."""

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprune.data import load
from bayesprune.errors import DataError

CLASSES = ("ant", "bee", "cow")
PER_CLASS = {"train": 4, "test": 2}


@pytest.fixture
def folder(tmp_path):
    """PATH/train and PATH/test with three classes of random 6×5 PNG pictures (6 wide, 5 high)."""
    generator = np.random.default_rng(0)
    for part, count in PER_CLASS.items():
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def verify_refusal(path, *parts):
    """Loading ``path`` raises DataError with every one of ``parts`` in its message, and writes nothing."""
    before = sorted(path.rglob("*")) if path.is_dir() else []
    with pytest.raises(DataError) as caught:
        load(f"imagefolder:{path}")
    for part in parts:
        assert str(part) in str(caught.value)
    assert (sorted(path.rglob("*")) if path.is_dir() else []) == before


def test_every_picture_arrives_with_its_class(folder):
    before = sorted(folder.rglob("*"))
    splits = load(f"imagefolder:{folder}")
    assert (splits.name, splits.num_classes, splits.input_shape) == (f"imagefolder:{folder}", 3, (3, 5, 6))
    for part, split in (("train", splits.train), ("test", splits.test)):
        number = 0
        for label, name in enumerate(CLASSES):
            for path in sorted((folder / part / name).iterdir()):
                with Image.open(path) as picture:
                    pixels = np.asarray(picture).transpose(2, 0, 1).copy()
                assert split.images[number].equal(torch.from_numpy(pixels))
                assert split.labels[number] == label
                number += 1
        assert len(split) == number
    assert sorted(folder.rglob("*")) == sorted([*before, folder / ".cache-bayesprune.safetensors"])


def test_pixels_are_normalised_by_the_training_split(folder):
    x, _ = load(f"imagefolder:{folder}").train[:]
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-6, rtol=0)


def test_grey_pictures_are_read_as_three_equal_channels(folder):
    for path in folder.rglob("*.png"):
        Image.new("L", (6, 5), color=len(path.parent.name) * int(path.stem)).save(path)
    images = load(f"imagefolder:{folder}").train.images
    assert images[:, 0].equal(images[:, 1]) and images[:, 0].equal(images[:, 2])


def test_a_limit_keeps_the_class_mix(folder):
    splits = load(f"imagefolder:{folder}", limit=6)
    assert torch.bincount(splits.train.labels).tolist() == [2, 2, 2]
    assert len(splits.test) == 6


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_split(folder, part):
    (folder / part).rename(folder / "elsewhere")
    verify_refusal(folder, f"found no folder {folder / part}", "PATH/train/<class>/<image>", "imagefolder:")


def test_a_missing_folder(tmp_path):
    verify_refusal(tmp_path / "nowhere", tmp_path / "nowhere" / "train")


def test_an_empty_split(folder):
    (folder / "train").rename(folder / "elsewhere")
    (folder / "train").mkdir()
    verify_refusal(folder, folder / "train", "expected PATH/train/<class>/<image>")


def test_an_empty_class(folder):
    for path in (folder / "test" / "bee").iterdir():
        path.unlink()
    verify_refusal(folder, folder / "test", "bee", "remove empty folders")


def test_classes_that_differ(folder):
    (folder / "test" / "cow").rename(folder / "test" / "dog")
    verify_refusal(folder, "'cow' only in training", "'dog' only in test")


def test_one_class(folder):
    for part in PER_CLASS:
        for name in CLASSES[1:]:
            (folder / part / name).rename(folder / f"{part}-{name}")
    verify_refusal(folder, "at least two classes, found 'ant'")


def test_pictures_of_different_sizes(folder):
    odd = folder / "train" / "cow" / "2.png"
    Image.new("RGB", (7, 4)).save(odd)
    verify_refusal(folder, f"found 6x5 (width x height) in {folder / 'train' / 'ant' / '0.png'}", f"7x4 in {odd}")


def test_splits_of_different_sizes(folder):
    for path in (folder / "test").rglob("*.png"):
        Image.new("RGB", (4, 4), color=int(path.stem)).save(path)
    verify_refusal(folder, "(3, 5, 6) and (3, 4, 4)")


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_a_damaged_picture(folder, keep):
    path = folder / "train" / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:keep])
    verify_refusal(folder, "expected an image in", path, "replace or remove it")
