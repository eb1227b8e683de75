"""Data sets by name: digits and MNIST really, the other formats as tiny real files in torchvision's layout."""

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from bayesprune.data import load
from bayesprune.errors import ConfigError, DataError

ROOT = Path(os.environ.get("BAYESPRUNE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def write_idx(path, values):
    """``values`` (uint8) as an idx file: magic number 8 (bytes), number of dimensions, sizes, data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.tobytes())


def write_mnist(root, name, train=30, test=20):
    """A data set in MNIST's format; returns its images and labels by split."""
    generator = np.random.default_rng(0)
    written = {}
    for part, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(root / FOLDERS[name] / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / FOLDERS[name] / "raw" / f"{part}-labels-idx1-ubyte", labels)
        written[part] = images, labels
    return written


def write_pickle(path, content):
    """Pickle ``content`` to ``path`` and give its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root, dataset, key, classes, monkeypatch):
    """A data set in CIFAR's format, its checksums put in place of the published ones; returns images by file."""
    generator = np.random.default_rng(0)
    folder, written = root / dataset.base_folder, {}
    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(dataset, attribute):
            written[name] = generator.integers(0, 256, (classes, 3072), dtype=np.uint8)
            sums.append([name, write_pickle(folder / name, {"data": written[name], key: list(range(classes))})])
        monkeypatch.setattr(dataset, attribute, sums)
    names = {dataset.meta["key"]: [f"c{number}" for number in range(classes)]}
    checksum = write_pickle(folder / dataset.meta["filename"], names)
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": checksum})
    return written


@pytest.fixture
def no_network(monkeypatch):
    """Every download fails at once, as without a network."""

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def verify_images(split, images, labels):
    """``split`` holds exactly ``images`` (bytes, N×C×H×W) and ``labels``, whatever their normalisation."""
    assert split.images.equal(torch.as_tensor(images))
    assert split.labels.equal(torch.as_tensor(labels, dtype=torch.int64))


def test_digits_are_the_real_ones_split_by_class():
    from sklearn.datasets import load_digits

    real = load_digits()
    splits = load("digits")
    assert (splits.name, splits.num_classes, splits.input_shape) == ("digits", 10, (1, 8, 8))
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    images = torch.cat([splits.train.images, splits.test.images]).flatten(1)
    labels = torch.cat([splits.train.labels, splits.test.labels])
    together = torch.cat([images, labels[:, None]], dim=1).tolist()
    expected = np.concatenate([real.data, real.target[:, None]], axis=1).astype(int).tolist()
    assert sorted(together) == sorted(expected)
    shares = torch.bincount(splits.test.labels) / torch.bincount(torch.from_numpy(real.target))
    assert (shares - 0.2).abs().max() < 0.005
    x, _ = splits.train[:]
    assert abs(float(x.mean())) < 1e-6 and abs(float(x.std(correction=0)) - 1) < 1e-6


def test_digits_are_the_same_every_time_and_with_a_limit():
    first, second, few = load("digits"), load("digits"), load("digits", limit=200)
    assert first.train.images.equal(second.train.images)
    assert few.train.images.equal(load("digits", limit=300).train.images[:200])
    assert (torch.bincount(few.train.labels) - 20).abs().max() <= 2
    assert few.test.images.equal(first.test.images)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_mnist_format(name, tmp_path, no_network):
    written = write_mnist(tmp_path, name)
    splits = load(name, data_dir=str(tmp_path))
    assert (splits.num_classes, splits.input_shape) == (10, (1, 28, 28))
    verify_images(splits.train, written["train"][0][:, None], written["train"][1])
    verify_images(splits.test, written["t10k"][0][:, None], written["t10k"][1])


@pytest.mark.parametrize(
    ("name", "dataset", "key", "classes"),
    [("cifar10", datasets.CIFAR10, "labels", 10), ("cifar100", datasets.CIFAR100, "fine_labels", 100)],
)
def test_the_cifar_format(name, dataset, key, classes, tmp_path, monkeypatch, no_network):
    written = write_cifar(tmp_path, dataset, key, classes, monkeypatch)
    splits = load(name, data_dir=tmp_path)
    train = np.concatenate([written[file] for file, _ in dataset.train_list]).reshape(-1, 3, 32, 32)
    test = np.concatenate([written[file] for file, _ in dataset.test_list]).reshape(-1, 3, 32, 32)
    assert (splits.num_classes, splits.input_shape) == (classes, (3, 32, 32))
    verify_images(splits.train, train, np.arange(len(train)) % classes)
    verify_images(splits.test, test, np.arange(len(test)) % classes)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("download", [False, True])
def test_missing_files_are_named_and_nothing_is_left_behind(name, download, tmp_path, no_network):
    with pytest.raises(DataError) as caught:
        load(name, data_dir=tmp_path, download=download)
    message = str(caught.value)
    folder, file = {
        "mnist": ("MNIST/raw", "train-images-idx3-ubyte"),
        "fashion-mnist": ("FashionMNIST/raw", "t10k-labels-idx1-ubyte"),
        "cifar10": ("cifar-10-batches-py", "data_batch_5"),
        "cifar100": ("cifar-100-python", "train"),
    }[name]
    assert message.startswith(f"{name}: ")
    assert ("download failed" in message and "no route to host" in message) == download
    assert f"Looked in {tmp_path / folder} for" in message and f"{file} (missing)" in message
    assert "--data-dir" in message
    assert list(tmp_path.iterdir()) == []


def test_one_missing_file_is_told_from_those_that_are_there(tmp_path):
    write_mnist(tmp_path, "mnist")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte \(found\), t10k-labels-idx1-ubyte \(missing\)"):
        load("mnist", data_dir=tmp_path, download=False)


def test_a_download_is_moved_into_place(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_mnist(Path(self.root), "mnist"))
    splits = load("mnist", data_dir=tmp_path / "new")
    assert (len(splits.train), len(splits.test)) == (30, 20)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]
    assert len(list((tmp_path / "new" / "MNIST" / "raw").iterdir())) == 4


@pytest.mark.parametrize("length", [0, 10, 500])
def test_a_truncated_file(length, tmp_path, no_network):
    write_mnist(tmp_path, "mnist")
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"mnist: .*Looked in .*delete files that are damaged"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "ValueError"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 28, 28) + bytes(100), "invalid for input of size 100"),
        (struct.pack(">BBBB", 0, 0, 8, 255) + bytes(100), "AssertionError"),
        (struct.pack(">BBBBIII", 0, 0, 12, 3, 1, 28, 28) + bytes(4 * 28 * 28), "torch.int32"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28), "could not read its files"),
        (struct.pack(">BBBBII", 0, 0, 8, 2, 30, 28) + bytes(30 * 28), "dimension"),
        (gzip.compress(bytes(100)), "could not read its files"),
    ],
    ids=["empty", "far too many images", "255 dimensions", "integers", "no images", "two dimensions", "packed"],
)
def test_a_file_that_holds_something_else(content, says, tmp_path, no_network):
    write_mnist(tmp_path, "mnist")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load("mnist", data_dir=tmp_path)
    assert str(caught.value).startswith("mnist: could not read its files (")
    assert says in str(caught.value) and "delete files that are damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    write_mnist(tmp_path, "mnist")
    with (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").open("r+b") as file:
        file.truncate(1 << 40)  # takes no room: it has a hole
    with pytest.raises(DataError, match=r"mnist: expected files of at most 1024 MiB, found 1048576 MiB\. Looked in"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"labels": [1] * 10}, "KeyError: 'data'"),
        ({"data": np.zeros((10, 100), np.uint8), "labels": [1] * 10}, "ValueError"),
        ({"data": np.zeros((10, 3072)), "labels": [1] * 10}, "expected images of bytes, found torch.float64"),
        ({"data": np.zeros((10, 3072), np.uint8), "labels": ["a"] * 10}, "'str'"),
    ],
    ids=["no images", "other width", "floats", "words for labels"],
)
def test_a_cifar_file_that_holds_something_else(batch, says, tmp_path, monkeypatch):
    write_cifar(tmp_path, datasets.CIFAR10, "labels", 10, monkeypatch)
    folder = tmp_path / datasets.CIFAR10.base_folder
    files = [[name, write_pickle(folder / name, batch)] for name, _ in datasets.CIFAR10.train_list]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", files)
    with pytest.raises(DataError, match="cifar10: could not read its files") as caught:
        load("cifar10", data_dir=tmp_path, download=False)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_cifar_file(tmp_path, monkeypatch):
    write_cifar(tmp_path, datasets.CIFAR10, "labels", 10, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cifar10: .*corrupted.*data_batch_2 \(found\)"):
        load("cifar10", data_dir=tmp_path, download=False)


def test_labels_in_the_files_are_checked(tmp_path):
    write_mnist(tmp_path, "mnist")
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.full(30, 11, dtype=np.uint8))
    with pytest.raises(DataError, match=r"mnist, training split: expected labels from 0 to 9, found .* 11 to 11"):
        load("mnist", data_dir=tmp_path)


def test_labels_of_another_data_set(tmp_path):
    write_mnist(tmp_path, "mnist")
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.arange(10, dtype=np.uint8))
    with pytest.raises(DataError, match=r"mnist, test split: .* found 20 images and 10 labels"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["MNIST", "imagenet", "", "imagefolder:", "imagefolder"])
def test_unknown_names(name):
    with pytest.raises(
        ConfigError, match="one of digits, mnist, fashion-mnist, cifar10, cifar100, imagefolder:PATH; got"
    ):
        load(name)


@pytest.mark.skipif(
    not (ROOT / "MNIST" / "raw").is_dir(), reason=f"no MNIST in {ROOT}; set BAYESPRUNE_DATA to its folder"
)
def test_real_mnist():
    splits = load("mnist", data_dir=ROOT, download=False)
    assert (len(splits.train), len(splits.test), splits.input_shape) == (60_000, 10_000, (1, 28, 28))
    # The statistics that are published for MNIST, and its first labels.
    assert float(splits.train.mean) / 255 == pytest.approx(0.1307, abs=5e-5)
    assert float(splits.train.std) / 255 == pytest.approx(0.3081, abs=5e-5)
    assert splits.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert splits.test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert torch.bincount(splits.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
