"""Images in folders named after their classes."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from bayesprune.data import load
from bayesprune.data.listing import list_images
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


def verify_listed_as_torchvision(path):
    """Files and labels of both splits are those of `torchvision.datasets.ImageFolder`."""
    for part in PER_CLASS:
        mine, theirs = list_images(path / part), ImageFolder(str(path / part))
        assert mine.classes == theirs.classes
        assert list(zip(mine.paths, mine.labels, strict=True)) == theirs.samples


def test_the_listing_is_that_of_torchvision(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "train" / "ant" / "more" / "deep").mkdir(parents=True)
    for name in ("more/Z.PNG", "more/deep/a.png", "more.png", "notes.txt", ".hidden.png"):
        (folder / "train" / "ant" / name).write_bytes((folder / "train" / "ant" / "1.png").read_bytes())
    (folder / "train" / "bee" / "linked.png").symlink_to(folder / "train" / "bee" / "0.png")
    (folder / "test" / "cow").rename(elsewhere / "cow")
    (folder / "test" / "cow").symlink_to(elsewhere / "cow", target_is_directory=True)
    (folder / "test" / "stray.png").write_bytes(b"")
    verify_listed_as_torchvision(folder)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/loop", "train"),
        ("train/ant/loop", "train/ant"),
        ("train/ant/loop", "train"),
        ("train/ant/loop", "."),
        ("train/ant/loop", "/"),
    ],
)
def test_a_link_to_a_folder_above_adds_nothing(folder, link, target):
    before = load(f"imagefolder:{folder}")
    (folder / link).symlink_to(folder / target, target_is_directory=True)
    splits = load(f"imagefolder:{folder}")
    assert splits.num_classes == 3
    assert splits.train.images.equal(before.train.images) and splits.train.labels.equal(before.train.labels)


def test_links_round_a_circle_elsewhere_end(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name, other in (("a", "b"), ("b", "a")):
        (elsewhere / name).mkdir()
        Image.new("RGB", (6, 5)).save(elsewhere / name / "x.png")
        (elsewhere / name / "on").symlink_to(elsewhere / other, target_is_directory=True)
        (elsewhere / name / "up").symlink_to(elsewhere, target_is_directory=True)
    (folder / "train" / "cow" / "far").symlink_to(elsewhere / "a", target_is_directory=True)
    found = list_images(folder / "train").paths[-6:]
    cow = folder / "train" / "cow"
    assert found == [*(str(cow / f"{k}.png") for k in range(4)), str(cow / "far/x.png"), str(cow / "far/on/x.png")]


@pytest.mark.parametrize(("link", "target"), [("train/dog", "train/cow"), ("train/bee/ant", "train/ant")])
def test_two_classes_that_share_a_folder_are_refused(folder, link, target):
    (folder / link).symlink_to(folder / target, target_is_directory=True)
    verify_refusal(folder, "expected every folder in one class", folder / target, folder / link, "remove the link")


def test_a_pipe_is_refused_and_not_waited_for(folder):
    path = folder / "train" / "ant" / "x.png"
    os.mkfifo(path)
    verify_refusal(folder, "expected an image in", path, "a pipe, a socket or a device", "replace or remove it")


def test_a_broken_link_is_refused(folder):
    path = folder / "test" / "ant" / "x.png"
    path.symlink_to(folder / "nowhere.png")
    verify_refusal(folder, "expected an image in", path, "No such file", "replace or remove it")


def test_a_folder_that_cannot_be_listed_is_refused(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("ant"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("bayesprune.data.listing.os.scandir", refuse)
    with pytest.raises(DataError, match=r"could not list .*Permission denied.*check the permissions"):
        load(f"imagefolder:{folder}")
